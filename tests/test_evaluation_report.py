"""What is made of answers: tables, plots and the command; and records from scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from game_agent import cli
from game_agent.errors import InvalidInput
from game_agent.evaluation.answers import Answer
from game_agent.evaluation.metrics import Scores
from game_agent.evaluation.prompts import Demonstrations, Prompts, Wording
from game_agent.evaluation.records import Record
from game_agent.evaluation.report import Report, check_metric, markdown
from game_agent.evaluation.scenes import scene_records
from game_agent.evaluation.ways import WAYS
from game_agent.runtime import bundled_folder
from game_agent.text.choosing import choose_format
from game_agent.text.formats import PromptEncoder
from game_agent.text.tokenizer import Tokenizer
from game_agent.training.batches import encode_scene
from game_agent.training.export import load_exported
from game_agent.training.scene import Question
from game_agent.training.tokens import plain_copy


def test_prompts_on_scenes_are_those_of_training() -> None:
    records = scene_records((8,), num_scenes=2, num_questions=3)
    tokenizer = Tokenizer.load(bundled_folder())
    encoder = PromptEncoder(tokenizer, choose_format(bundled_folder(), tokenizer))
    prompts = Prompts(encoder, Wording(), Demonstrations([], 0, 0))
    plain = plain_copy(load_exported(bundled_folder())[1])
    for record in records:
        asked = Question(record.question, record.answers[0], "", "")
        sample = encode_scene(plain, record.blocks, [asked])
        assert [block.tokens.tolist() for block in prompts.blocks(record)] == sample.blocks
        assert prompts.event(record).tolist() == sample.questions[0][0]


def test_scenes_are_the_same_for_the_same_seed() -> None:
    records = scene_records((2, 6), num_scenes=2, num_questions=5, seed=3)
    assert records == scene_records((2, 6), num_scenes=2, num_questions=5, seed=3)
    assert records != scene_records((2, 6), num_scenes=2, num_questions=5, seed=4)
    assert len({record.id for record in records}) == 2 * 2 * 5
    assert all(record.blocks[0].startswith("You are ") and record.type for record in records)
    for sizes, number in (((), 1), ((1,), 1), ((2,), 0)):
        with pytest.raises(InvalidInput, match="scenes need 2 blocks"):
            scene_records(sizes, num_scenes=number)


def test_a_report_counts_by_hand() -> None:
    records = [Record(f"{i}", (f"scene {i // 2}",), "?", ("x",), "ab"[i % 2]) for i in range(8)]

    def answers(way: str, right: str) -> list[Answer]:
        rows = zip(records, right, strict=True)
        return [
            Answer("m", "0", way, r.id, r.type, "", "stop", 1, Scores(1, 0.5, float(good)))
            for r, good in rows
        ]

    both = [*answers("block", "11101010"), *answers("full", "11111010")]
    report = Report.of(both, records, "exact")
    found = report.interval(("m", "block"), "a")
    assert found is not None
    assert (found.mean, report.count(("m", "block"), "a")) == (1, 4)
    assert report.interval(("m", "block"), "c") is None
    better = report.difference(("m", "full"))
    assert better is not None
    assert better.mean == 1 / 8
    text = markdown(report, "Title", ["A note."])
    assert "| m | block | 8 | 100.0 (51.0 – 100.0) | 50.0 (" in text
    assert "| +12.5 (+0.0 – +37.5) |" in text
    assert "| a | 4 | 100 (51 – 100) | 100 (51 – 100) |\n| b | 4 | 25 (0 – 75) | 50 (" in text
    with pytest.raises(InvalidInput, match="--metric must be one of"):
        check_metric("best")


def invoke(*args: object) -> Any:
    return CliRunner().invoke(cli.app, ["evaluate", "--kv-memory", "0.02", *map(str, args)])


def test_the_command(tiny_checkpoint: Path, tmp_path: Path) -> None:
    line = '{"blocks": ["inn: rooms: 3."], "question": "Room %d?", "answers": ["3"], "type": "t"}'
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([*(line % i for i in range(5)), "bad"]), "utf-8")
    out, plot, answers = (tmp_path / "new" / name for name in ("o.md", "o.png", "a.jsonl"))
    args = (f"one={tiny_checkpoint}", f"two={tiny_checkpoint}", "--data", data, "--modes", "all")
    more = ("--max-tokens", 3, "--on-bad-data", "skip", "--out", out, "--demonstrations", 1)
    result = invoke(*args, *more, "--answers", answers, "--paper-prompt", "--seed", 2)
    assert result.exit_code == 0, result.output
    assert "data.jsonl, line 6: it is not JSON" in result.output
    text = out.read_text("utf-8")
    assert "data.jsonl, 5 of them, 1 demonstrations" in text
    for model in ("one", "two"):
        for way in WAYS:
            assert f"| {model} | {way} | 5 |" in text
    assert len(answers.read_text("utf-8").splitlines()) == 1 + 6 * 5  # both have the same weights
    assert not plot.exists()


def test_the_command_on_scenes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot, out = tmp_path / "o.png", tmp_path / "o.md"
    few = ("--scene-blocks", "2,3", "--scene-count", 1, "--scene-questions", 3, "--max-tokens", 2)
    result = invoke(tiny_checkpoint, "--scenes", *few, "--plot", plot, "--out", out, "--limit", 4)
    assert result.exit_code == 0, result.output
    assert "scenes of the test split, 4 of them" in out.read_text("utf-8")
    assert "](o.png)" in out.read_text("utf-8")
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give records"),
        (("--scenes", "--data", "x"), "two sources"),
        (("--scenes", "--demonstrations", 1), "begins with its character"),
        (("--scenes", "--instruction", "Be brief."), "begins with its character"),
        (("--scenes", "--scene-blocks", "4,x"), "must be numbers"),
        (("--scenes", "--metric", "best"), "--metric must be one of"),
        (("--scenes", "--on-bad-data", "go"), "--on-bad-data must be stop or skip"),
        (("--scenes", "--modes", "x", "--limit", 1), "there is no 'x'"),
    ],
)
def test_what_the_command_refuses(args: tuple[object, ...], message: str) -> None:
    result = invoke(*args)
    assert isinstance(result.exception, InvalidInput)
    assert message in result.exception.message

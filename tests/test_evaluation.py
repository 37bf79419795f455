"""Evaluation: records read and bad ones named, replies in every way, answers on file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from typer.testing import CliRunner

from game_agent import cli
from game_agent.engine import Engine, Request
from game_agent.errors import InvalidInput
from game_agent.evaluation.answers import Answer, AnswerFile
from game_agent.evaluation.asking import Replying
from game_agent.evaluation.metrics import Scores, score
from game_agent.evaluation.prompts import PAPER, Demonstrations, Prompts, Wording
from game_agent.evaluation.records import Record, read_records
from game_agent.evaluation.report import Report, check_metric, markdown
from game_agent.evaluation.run import Loading, Model, Result, Settings, evaluate
from game_agent.evaluation.scenes import scene_records
from game_agent.evaluation.ways import WAYS, parse_ways

GOOD = {"blocks": ["inn: rooms: 3."], "question": "How many rooms?", "answers": ["3"]}
BAD: dict[str, tuple[Any, str]] = {
    "json": ('{"blocks": [', "it is not JSON"),
    "utf-8": (b'{"question": "\xff"}', "it is not UTF-8"),
    "array": ([1], "must be a JSON object"),
    "deep": ("[" * 100_000, "recursion"),
    "no blocks": ({**GOOD, "blocks": None}, '"blocks" must be an array of texts'),
    "no block": ({**GOOD, "blocks": []}, '"blocks" is empty'),
    "empty block": ({**GOOD, "blocks": ["a", " "]}, r'"blocks\[1\]" is empty'),
    "number": ({**GOOD, "blocks": [3]}, r'"blocks\[0\]" must be a text'),
    "no question": ({"blocks": ["a"], "answers": ["b"]}, '"question" is missing'),
    "no answers": ({"blocks": ["a"], "question": "b"}, '"answers" must be an array'),
    "empty answers": ({**GOOD, "answers": []}, '"answers" is empty'),
    "type": ({**GOOD, "type": 3}, '"type" must be a text'),
    "id": ({**GOOD, "id": True}, '"id" must be'),
    "twice": ({**GOOD, "id": "1"}, "make ids differ"),
    "surrogate": ('{"blocks": ["\\ud800"], "question": "b", "answers": ["c"]}', "surrogate"),
}


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    with path.open("wb") as file:
        for line in lines:
            text = line if isinstance(line, str | bytes) else json.dumps(line)
            file.write((text if isinstance(text, bytes) else text.encode()) + b"\n")
    return path


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_named(tmp_path: Path, kind: str) -> None:
    line, message = BAD[kind]
    path = write_lines(tmp_path / "data.jsonl", [GOOD, "", line, GOOD])
    with pytest.raises(InvalidInput, match=rf"data.jsonl, line 3: .*{message}"):
        read_records(path)
    found = read_records(path, on_bad_data="skip")
    assert [record.id for record in found.records] == ["1", "4"]
    assert len(found.bad) == 1


def test_files_without_records(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="no record to ask"):
        read_records(write_lines(tmp_path / "empty.jsonl", ["", " "]))
    bad = write_lines(tmp_path / "bad.jsonl", ["x"])
    with pytest.raises(InvalidInput, match="no record to ask; .*line 1"):
        read_records(bad, on_bad_data="skip")


def test_good_records(tmp_path: Path) -> None:
    lines = [{**GOOD, "type": "count", "id": 7, "more": 1}, GOOD, "not read"]
    (first, second) = read_records(write_lines(tmp_path / "d.jsonl", lines), limit=2).records
    assert first == Record("7", ("inn: rooms: 3.",), "How many rooms?", ("3",), "count")
    assert (second.id, second.type) == ("2", "")


def test_ways() -> None:
    assert [way.name for way in parse_ways("full, block,full")] == ["full", "block"]
    assert parse_ways("all") == list(WAYS.values())
    with pytest.raises(InvalidInput, match="no 'diagonal'; there are block, full"):
        parse_ways("block,diagonal")


def make_records(number: int) -> list[Record]:
    """Records that share some blocks."""
    return [
        Record(
            f"r{i}",
            ("You are Mira.", f"inn: rooms: {i}.", f"mill: sacks: {i // 2}.", f"event {i}."),
            f"How many rooms are in inn {i}?",
            (str(i), "none"),
            "even" if i % 2 == 0 else "odd",
        )
        for i in range(number)
    ]


def prompts_of(engine: Engine, wording: Wording, pool: Sequence[Record], number: int) -> Prompts:
    return Prompts(engine.runner.encoder, wording, Demonstrations(pool, number, 0))


def texts(engine: Engine, prompts: Prompts, record: Record) -> list[str]:
    return [engine.runner.tokenizer.decode(b.tokens.tolist()) for b in prompts.blocks(record)]


def test_demonstrations_are_solved_records_before_the_blocks(engine: Engine) -> None:
    records = make_records(6)
    prompts = prompts_of(engine, Wording(instruction="Be brief."), records, 2)
    for record in records:
        first, *shown, a, b, c, d = texts(engine, prompts, record)
        assert first == "Be brief."
        assert (a, b, c, d) == record.blocks
        solved = [f"Question: {r.question}\nAnswer: {r.answers[0]}" for r in records if r != record]
        assert len({*shown}) == 2
        assert {*shown} <= {*solved}
    with pytest.raises(InvalidInput, match="cannot be chosen from 6 records"):
        prompts_of(engine, Wording(), records, 6)
    with pytest.raises(InvalidInput, match=r"\{question\}"):
        Wording(question="Why?")


def test_the_wording_of_the_paper(engine: Engine) -> None:
    (record,) = make_records(1)
    prompts = prompts_of(engine, PAPER, [], 0)
    assert texts(engine, prompts, record)[0].startswith("You are an intelligent AI assistant.")
    event = engine.runner.tokenizer.decode(prompts.event(record).tolist())
    assert event.startswith("Please write a high-quality answer")
    assert event.endswith("\nQuestion: How many rooms are in inn 0?")


REPLYING = Replying(max_tokens=6)


def run(folder: Path, ways: str, answers: Path | None = None, number: int = 70) -> Result:
    settings = Settings(Loading(kv_memory_bytes=2**24), REPLYING)
    models = [Model("tiny", folder)]
    return evaluate(models, parse_ways(ways), make_records(number), settings, answers=answers)


def test_replies_are_the_engines_own(tiny_checkpoint: Path, engine: Engine) -> None:
    """Asked together in every way; each reply is what the engine gives for the question alone."""
    records = make_records(70)
    result = run(tiny_checkpoint, "all")
    assert len(result.answers) == len(WAYS) * len(records)
    prompts = prompts_of(engine, Wording(), [], 0)
    answers = {(answer.way, answer.id): answer for answer in result.answers}
    for name in ("block", "full", "unmoved", "slots", "parallel"):
        way = WAYS[name]
        for record in records[::9]:
            request = Request(
                prompts.blocks(record),
                prompts.event(record),
                way.mode,
                max_tokens=6,
                placement=way.placement,
            )
            (alone,) = engine.run([request])
            answer = answers[name, record.id]
            assert answer.reply == alone.text
            assert answer.scores == score(alone.text, record.answers)
            assert answer.type == record.type
            assert answer.context_tokens == alone.usage.context_tokens
    # With repair of 128 tokens all of these short blocks are computed anew: full mode.
    full = [answers["full", record.id].reply for record in records]
    assert [answers["contextual", record.id].reply for record in records] == full
    assert full != [answers["block", record.id].reply for record in records]


def test_an_interrupted_evaluation_goes_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = run(tiny_checkpoint, "block,full", path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 140
    path.write_bytes(b"".join(lines[:90]) + lines[90][:40])  # killed while it wrote
    assert run(tiny_checkpoint, "block,full", path) == whole
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)
    before = path.read_bytes()
    assert run(tiny_checkpoint, "block", path).answers == whole.answers[:70]
    assert path.read_bytes() == before


def test_answers_of_something_else_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    run(tiny_checkpoint, "block", path, number=2)
    with pytest.raises(InvalidInput, match=r"other settings \(records\)"):
        run(tiny_checkpoint, "block", path, number=3)
    other = Settings(Loading(kv_memory_bytes=2**24), Replying(max_tokens=7))
    with pytest.raises(InvalidInput, match=r"other settings \(max_tokens\)"):
        evaluate([Model("tiny", tiny_checkpoint)], [], make_records(2), other, answers=path)
    path.write_text("something\n", "utf-8")
    with pytest.raises(InvalidInput, match="not written by game-agent evaluate"):
        AnswerFile(path, {})
    path.write_text('{"settings": {}}\n{"model": 1}\n', "utf-8")
    with pytest.raises(InvalidInput, match="line 2 was not written"):
        AnswerFile(path, {})


def test_other_weights_are_asked_anew(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    run(tiny_checkpoint, "block", path, number=2)
    other = make_checkpoint(tmp_path / "other", seed=1)
    run(other, "block", path, number=2)
    assert len(path.read_text("utf-8").splitlines()) == 1 + 4


def test_what_is_too_long_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "short", max_position_embeddings=96)
    records = [*make_records(2), Record("long", ("x" * 99,), "Why?", ("x",))]
    models = [Model("tiny", folder)]
    loading = Loading(kv_memory_bytes=2**24)
    with pytest.raises(InvalidInput, match="record long: the prompt has .* --on-bad-data skip"):
        evaluate(models, parse_ways("block"), records, Settings(loading, REPLYING))
    skip = Settings(loading, REPLYING, on_bad_data="skip")
    result = evaluate(models, parse_ways("block,full"), records, skip)
    assert len(result.bad) == 2
    assert [answer.id for answer in result.answers] == ["r0", "r1", "r0", "r1"]


def test_names_of_models(tmp_path: Path) -> None:
    assert Model.parse(None).name == "bundled"
    assert Model.parse("mine=bundled") == Model("mine", Model.parse(None).folder)
    assert Model.parse(str(tmp_path)) == Model(tmp_path.name, tmp_path)
    assert Model.parse(f"a={tmp_path}") == Model("a", tmp_path)
    twice = [Model("a", tmp_path), Model("a", tmp_path)]
    with pytest.raises(InvalidInput, match="two models have the same name"):
        evaluate(twice, [], make_records(1), Settings())


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
    lines = [{**GOOD, "question": f"Room {i}?", "type": f"t{i % 2}"} for i in range(5)]
    data = write_lines(tmp_path / "data.jsonl", [*lines, "bad"])
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

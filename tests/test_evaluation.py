"""Evaluation: records read and bad ones named, replies in every way, answers on file."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint

from game_agent.engine import Completion, Engine, Request
from game_agent.errors import InvalidInput, ModelError, Unavailable
from game_agent.evaluation.answers import AnswerFile
from game_agent.evaluation.asking import Asker, Replying
from game_agent.evaluation.metrics import score
from game_agent.evaluation.prompts import PAPER, Demonstrations, Prompts, Wording
from game_agent.evaluation.records import Record, read_records
from game_agent.evaluation.run import Loading, Model, Result, Settings, evaluate
from game_agent.evaluation.ways import WAYS, parse_ways
from game_agent.model.runner import ModelRunner

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


def test_data_for_fine_tuning_is_read_as_well(tmp_path: Path) -> None:
    one = {"blocks": ["inn."], "question": "Where?", "answer": "Here."}
    both = [{"question": "Who?", "answer": "I."}, {**GOOD, "blocks": ["mill."], "id": "own"}]
    several = {"blocks": ["inn."], "questions": both}
    path = write_lines(tmp_path / "d.jsonl", [one, several])
    assert read_records(path).records == [
        Record("1", ("inn.",), "Where?", ("Here.",)),
        Record("2.1", ("inn.",), "Who?", ("I.",)),
        Record("own", ("mill.",), "How many rooms?", ("3",)),
    ]
    assert len(read_records(path, limit=2).records) == 2
    for questions, message in ((3, "must be an array"), ([], "is empty"), ([{}], '"question" is')):
        bad = write_lines(tmp_path / "bad.jsonl", [{"blocks": ["a"], "questions": questions}])
        with pytest.raises(InvalidInput, match=message):
            read_records(bad)


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


def test_contextual_mode_takes_over_what_was_moved(tiny_checkpoint: Path, engine: Engine) -> None:
    """Without repair, what stands behind the block that was another one is as it was."""
    records = make_records(12)
    prompts = prompts_of(engine, Wording(), [], 0)
    full = [r.text for r in ask(engine, prompts, records, 0, "full")]
    repaired = ask(engine, prompts, records, 128, "contextual")
    moved = ask(engine, prompts, records, 0, "contextual")
    assert [reply.text for reply in repaired] == full
    assert [reply.text for reply in moved] != full
    assert all(
        a.usage.encoded_tokens < b.usage.encoded_tokens
        for a, b in zip(moved, repaired, strict=True)
    )


def ask(
    engine: Engine, prompts: Prompts, records: Sequence[Record], repair_tokens: int, way: str
) -> list[Completion]:
    asker = Asker(engine, prompts, Replying(6, (), repair_tokens), records)
    replies = list(asker.ask(records, WAYS[way]))
    assert all(isinstance(reply, Completion) for reply in replies)
    return [reply for reply in replies if isinstance(reply, Completion)]


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
    with pytest.raises(InvalidInput, match="record long"):  # while others are under way
        evaluate(models, parse_ways("block"), records[::-1], Settings(loading, REPLYING))
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


def test_a_bad_folder_is_named_before_any_model_is_asked(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    models = [Model("tiny", tiny_checkpoint), Model("other", tmp_path)]
    answers = tmp_path / "answers.jsonl"
    with pytest.raises(ModelError, match=r"config\.json does not exist"):
        evaluate(models, parse_ways("block"), make_records(1), Settings(), answers=answers)
    assert not answers.exists()


def test_models_are_not_in_memory_together(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[weakref.ref[ModelRunner]] = []
    load = Loading.runner

    def noted(loading: Loading, model: Model) -> ModelRunner:
        assert all(found() is None for found in before)
        runner = load(loading, model)
        before.append(weakref.ref(runner))
        return runner

    monkeypatch.setattr(Loading, "runner", noted)
    models = [Model("one", tiny_checkpoint), Model("two", make_checkpoint(tmp_path, seed=1))]
    settings = Settings(Loading(kv_memory_bytes=2**24), REPLYING)
    evaluate(models, parse_ways("block,full"), make_records(2), settings)
    assert len(before) == 2


def test_a_full_disk_keeps_what_is_on_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "answers.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(Unavailable, match="make room"):
            run(tiny_checkpoint, "block,full", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 20_000
    found = run(tiny_checkpoint, "block,full", path)
    assert found == run(tiny_checkpoint, "block,full")


def test_each_answer_is_told_and_on_file_as_it_comes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path, told = tmp_path / "answers.jsonl", []

    def hear(what: str, done: int, of: int) -> None:
        assert len(path.read_bytes().splitlines()) == 1 + done
        told.append((what, done, of))

    settings = Settings(Loading(kv_memory_bytes=2**24), REPLYING)
    models = [Model("tiny", tiny_checkpoint)]
    evaluate(models, parse_ways("block"), make_records(5), settings, answers=path, progress=hear)
    assert told == [("tiny, block", done, 5) for done in range(6)]

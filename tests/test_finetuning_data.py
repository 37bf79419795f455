"""Training data: which records there are, what is said of bad ones, and the tokens they become."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint
from families import FAMILIES, Family

from bench.twin import write
from game_agent.agents.blockcache import BlockCache
from game_agent.errors import InvalidInput
from game_agent.finetuning.reading import check_problems, read_records
from game_agent.finetuning.records import Question, Record, Segmentation, parse_record
from game_agent.finetuning.samples import SampleEncoder
from game_agent.model.runner import load_runner
from game_agent.runtime import Runtime

GOOD = {"blocks": ["You are Mira.", "inn: rooms: 3."], "question": "Rooms?", "answer": "Three."}


def chat(*messages: tuple[str, ...]) -> dict[str, object]:
    keys = ("role", "content", "name")
    return {"messages": [dict(zip(keys, m, strict=False)) for m in messages]}


def test_blocks_are_taken_as_they_are() -> None:
    record = parse_record({**GOOD, "id": 7}, "passages", "a.jsonl, line 1")
    assert record == Record(
        ("You are Mira.", "inn: rooms: 3."), (Question("Rooms?", "Three."),), "a.jsonl, line 1"
    )
    several = {"blocks": ["x\n\ny"], "questions": [{"question": "a", "answers": ["b", "c"]}] * 2}
    assert parse_record(several, "passages").questions == (Question("a", "b"),) * 2
    assert parse_record(several, "passages").blocks == ("x\n\ny",)


LONG = "First passage.\n\nSecond passage."
CUT = ("First passage.", "Second passage.")
TURN = "User: Hi.\nAssistant: Hello."
TALK = chat(
    ("system", LONG),
    ("user", "Hi."),
    ("assistant", "Hello."),
    ("user", LONG + "\n\nWhich?"),
    ("assistant", "The second."),
)


@pytest.mark.parametrize(
    ("segmentation", "blocks", "event"),
    [
        ("turns", (LONG, TURN), LONG + "\n\nWhich?"),
        ("passages", (*CUT, TURN), LONG + "\n\nWhich?"),
        ("prompt", (*CUT, TURN, *CUT), "Which?"),
    ],
)
def test_a_chat_is_cut(segmentation: Segmentation, blocks: tuple[str, ...], event: str) -> None:
    record = parse_record(TALK, segmentation)
    assert record.blocks == blocks
    assert record.questions == (Question(event, "The second."),)


def test_names_are_written_as_agents_are_asked(tiny_checkpoint: Path) -> None:
    record = parse_record(
        chat(
            ("system", "You are Mira. Keeper."),
            ("user", "My name is Kay.", "Player"),
            ("assistant", "Welcome, Kay.", "Mira"),
            ("user", "Who  am I?", "Player"),
            ("assistant", "You are Kay.", "Mira"),
        ),
        "passages",
    )
    (sample,), _ = SampleEncoder(tiny_checkpoint, 512).encode([record])
    with Runtime.load(tiny_checkpoint) as runtime:
        runtime.world("village", {"weather": "rain"})
        agent = runtime.agent("Mira", world="village", profile="Keeper.", sees=())
        agent.memory.add_turn("Player", "My name is Kay.", "Welcome, Kay.")
        rows = agent.inspect("Who  am I?")
        decode = runtime.engine.runner.tokenizer.decode
        texts = [decode(ids.tolist()) for ids in (*sample.blocks, sample.questions[0][0])]
    assert texts == [row["text"] for row in rows]
    assert [*map(len, (*sample.blocks, sample.questions[0][0]))] == [row["tokens"] for row in rows]


def test_a_prompt_without_context_has_a_first_block() -> None:
    assert parse_record(chat(("user", "Hi"), ("assistant", "Ho")), "passages").blocks == ("",)


BAD = {
    '{"blocks": ["a"], "question": "b"}': "answer is missing",
    '{"blocks": ["a"], "question": "b", "answer": " "}': "answer is empty",
    '{"blocks": ["a"], "question": "b", "answer": 3}': "answer must be a text, not int",
    '{"blocks": ["a"], "question": "b", "answers": []}': "answers is empty",
    '{"blocks": ["a"], "answer": "b"}': "question is missing",
    '{"blocks": ["a", ""], "question": "b", "answer": "c"}': "blocks/1 is empty",
    '{"blocks": "a", "question": "b", "answer": "c"}': "blocks must be an array",
    '{"blocks": ["a"], "questions": []}': "questions is empty",
    '{"blocks": ["a"], "questions": [7]}': "questions/0 must be an object",
    '{"blocks": ["a"], "questions": [{"question": "b"}]}': "questions/0/answer is missing",
    '{"question": "b", "answer": "c"}': "a record has `messages`, or `blocks` and a `question`",
    "[]": "a record must be a JSON object",
    '{"blocks": [': "broken JSON at column 13",
    "[" * 100_000: "broken JSON: nested too deeply",
    '{"messages": []}': "messages must end with the assistant's answer",
    '{"messages": ["a"]}': "messages/0 must be an object with `role` and `content`",
    '{"messages": [{"role": "user", "content": "a"}]}': "must end with the assistant's answer",
    '{"messages": [{"role": "king", "content": "a"}]}': "messages/0/role must be system, user or",
    '{"messages": [{"role": "assistant", "content": "a"}]}': "messages/0/role must be 'user' here",
    '{"messages": [{"role": "user"}]}': "messages/0/content is missing",
    '{"messages": [{"role": "user", "content": "a", "name": 1}]}': "messages/0/name must be a text",
    '{"blocks": ["' + "x" * 600 + '"], "question": "b", "answer": "c"}': "it has 605 tokens, 512",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: BAD[line][:40])
def test_bad_records_are_named(tmp_path: Path, tiny_checkpoint: Path, line: str) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{line}\n{json.dumps(GOOD)}\n", "utf-8")
    records, problems = read_records([file], "passages")
    samples, too_long = SampleEncoder(tiny_checkpoint, 512).encode(records)
    (problem,) = [*problems, *too_long]
    assert problem.where == f"{file}, line 3"
    assert BAD[line] in problem.reason
    assert len(samples) == 2
    check_problems([problem], len(samples), "skip")
    with pytest.raises(InvalidInput, match=r"line 3: .*\(1 of 3 records are bad; --on-bad-data"):
        check_problems([problem], len(samples), "stop")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b'\n{"blocks": ["\xff"]}\n')
    records, problems = read_records([file], "passages")
    assert len(records) == 1
    assert problems[0].where == f"{file}, line 2"
    assert problems[0].reason == "not UTF-8 at byte 14 of the line"


def test_data_without_a_good_record(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text("7\n", "utf-8")
    records, problems = read_records([file], "passages")
    with pytest.raises(
        InvalidInput, match="no record to learn from, the first, .*line 1: a record"
    ):
        check_problems(problems, len(records), "skip")
    file.write_text("", "utf-8")
    with pytest.raises(InvalidInput, match="no record to learn from$"):
        check_problems([], 0, "stop")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_records([tmp_path / "nothing.jsonl"], "passages")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_tokens_are_those_of_the_runtime(tmp_path: Path, family: Family) -> None:
    """For every family's template: first block, other blocks, event, sink, end of the reply."""
    folder = make_checkpoint(tmp_path / "model", vocab_size=512)
    family.save(folder)
    sample_encoder = SampleEncoder(folder, 512, sink="Hm.")
    (sample,), problems = sample_encoder.encode([parse_record(GOOD, "passages")])
    assert not problems
    runner = load_runner(folder, kv_memory_bytes=2**22, sink="Hm.")
    cache = BlockCache(runner.encoder)
    expected = [
        cache.block("You are Mira.", "", first=True).tokens,
        cache.block("inn: rooms: 3.", "").tokens,
        runner.encoder.event("Rooms?"),
    ]
    ((event, reply),) = sample.questions
    for got, wanted in zip([*sample.blocks, event], expected, strict=True):
        assert np.array_equal(got, wanted)
    assert runner.sink is not None
    assert sample.sink is not None
    assert np.array_equal(sample.sink, runner.sink.tokens)
    assert reply[-1] == runner.end_token_id
    assert runner.tokenizer.decode(reply[:-1].tolist()).strip() == "Three."
    assert sample.num_context == sum(map(len, [*sample.blocks, sample.sink]))


def test_many_questions_become_several_samples(tiny_checkpoint: Path) -> None:
    questions = [{"question": "q" * n, "answer": "a" * n} for n in (50, 60, 70, 20, 5)]
    record = parse_record({"blocks": ["x" * 80], "questions": questions}, "passages")
    encoder = SampleEncoder(tiny_checkpoint, 256)
    samples, problems = encoder.encode([record])
    assert not problems
    assert len(samples) > 1
    assert sum(len(sample.questions) for sample in samples) == 5
    assert all(sample.num_tokens <= 256 for sample in samples)


def test_a_limit_beyond_the_model(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, max_position_embeddings=64)
    with pytest.raises(InvalidInput, match="does not fit the model, whose context holds 64"):
        SampleEncoder(folder, 65)


def test_scenes_are_records(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """What bench/twin.py writes can be learned from, and is the same every time."""
    file, again = tmp_path / "scenes.jsonl", tmp_path / "again" / "scenes.jsonl"
    again.parent.mkdir()
    for path in (file, again):
        write(path, 0, 5, range(2, 6), 4)
    assert file.read_bytes() == again.read_bytes()
    records, problems = read_records([file], "passages")
    assert not problems
    assert [len(record.questions) for record in records] == [4] * 5
    samples, too_long = SampleEncoder(tiny_checkpoint, 8192).encode(records)
    assert (len(samples), too_long) == (5, [])

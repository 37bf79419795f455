"""Replies under a JSON Schema: valid or reported as cut off; forced tokens cost nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from schemas import Schema, random_schema

from game_agent.blocks.block import Block
from game_agent.config import EngineSettings
from game_agent.engine import Completion, Engine, Request, Sampling
from game_agent.engine.grammar import Grammar, GrammarCompiler
from game_agent.errors import InvalidInput
from game_agent.model.runner import load_runner


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    settings = EngineSettings(max_waiting=2000)
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), settings)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def compiler(engine: Engine) -> GrammarCompiler:
    return GrammarCompiler(engine.runner)


def question(engine: Engine, grammar: Grammar, **fields: Any) -> Request:
    encoder = engine.runner.encoder
    block = Block(encoder.block("Mira runs the inn.", first=True))
    return Request((block,), encoder.event("What do you do?"), grammar=grammar, **fields)


def assert_valid_or_cut(schema: Schema, completion: Completion) -> bool:
    """Whether it is complete; then it is what the schema asks for."""
    if completion.finish_reason != "stop":
        assert completion.finish_reason == "length"
        return False
    jsonschema.validate(json.loads(completion.text), schema)
    return True


def run_random_schemas(engine: Engine, compiler: GrammarCompiler, count: int) -> None:
    rng = random.Random(count)
    schemas = [random_schema(rng) for _ in range(count)]
    requests = [
        question(
            engine,
            compiler.compile(schema),
            max_tokens=rng.choice([20, 120, 300]),
            sampling=Sampling(rng.choice([0.0, 1.0, 3.0]), rng.choice([1.0, 0.9]), seed),
            mode=rng.choice(["block", "full"]),
        )
        for seed, schema in enumerate(schemas)
    ]
    completions = engine.run(requests)
    pairs = list(zip(schemas, completions, strict=True))
    num_complete = sum(assert_valid_or_cut(*pair) for pair in pairs)
    # Both ends are met, or the test says nothing.
    assert 0.3 * count < num_complete < 0.99 * count
    assert engine.store.num_block_pages + engine.runner.pool.num_free == (
        engine.runner.pool.num_pages
    )


def test_complete_replies_keep_random_schemas(engine: Engine, compiler: GrammarCompiler) -> None:
    run_random_schemas(engine, compiler, 60)


@pytest.mark.slow
def test_complete_replies_keep_a_thousand_schemas(
    engine: Engine, compiler: GrammarCompiler
) -> None:
    run_random_schemas(engine, compiler, 1000)


SELL: Schema = {
    "type": "object",
    "properties": {
        "name": {"const": "sell"},
        "item": {"enum": ["bread", "broom", "ale"]},
        "price": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "item", "price"],
    "additionalProperties": False,
}


def test_forced_tokens_cost_no_forward_pass(engine: Engine, compiler: GrammarCompiler) -> None:
    before = engine.metrics.snapshot().get("steps", 0)
    request = question(engine, compiler.compile(SELL), max_tokens=100)
    completion = engine.run([request])[0]
    steps = engine.metrics.snapshot()["steps"] - before  # type: ignore[operator]
    usage = completion.usage
    assert completion.text.startswith('{"name": "sell", "item": "')
    assert usage.forced_tokens > 35
    # One pass for each token that was drawn, the first of them with the event.
    assert steps == usage.generated_tokens - usage.forced_tokens


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("seed", range(8))
def test_taking_forced_tokens_at_once_changes_no_reply(
    engine: Engine, compiler: GrammarCompiler, seed: int, mode: Any
) -> None:
    """The plain way: mask, take the likeliest token, and again."""
    schema = SELL if seed == 0 else random_schema(random.Random(seed), depth=2)
    grammar = compiler.compile(schema)
    request = question(engine, grammar, max_tokens=40, mode=mode)
    constraint, tokens = grammar.begin(), []
    blocks = [block.tokens.tolist() for block in request.blocks]
    while len(tokens) < 40 and not constraint.is_complete:
        logits = engine.logits(blocks, [*request.event.tolist(), *tokens], mode)[-1]
        mask = torch.from_numpy(constraint.mask(len(logits)))
        token = int(logits.masked_fill(~mask, -torch.inf).argmax())
        if token in engine.runner.stop_token_ids:
            break
        constraint.accept([token])
        tokens.append(token)
    assert engine.run([request])[0].tokens == tuple(tokens)


def test_a_reply_without_any_choice_needs_no_forward_pass(
    engine: Engine, compiler: GrammarCompiler
) -> None:
    before = engine.metrics.snapshot().get("steps", 0)
    request = question(engine, compiler.compile({"const": {"do": "wait"}}), max_tokens=50)
    completion = engine.run([request])[0]
    assert json.loads(completion.text) == {"do": "wait"}
    assert completion.finish_reason == "stop"
    assert engine.metrics.snapshot().get("steps", 0) == before
    cut = question(engine, compiler.compile({"const": {"do": "wait"}}), max_tokens=5)
    assert engine.run([cut])[0].finish_reason == "length"


def test_exactly_enough_tokens_are_enough(engine: Engine, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(SELL)
    whole = engine.run([question(engine, grammar, max_tokens=100)])[0]
    count = whole.usage.generated_tokens
    exact, short = engine.run(
        [question(engine, grammar, max_tokens=limit) for limit in (count, count - 1)]
    )
    assert (exact.finish_reason, exact.text) == ("stop", whole.text)
    assert (short.finish_reason, short.usage.generated_tokens) == ("length", count - 1)


def test_replies_of_all_kinds_share_steps(engine: Engine, compiler: GrammarCompiler) -> None:
    rng = random.Random(0)
    schemas = [random_schema(rng) for _ in range(4)]
    requests: list[Request] = []
    for seed, schema in enumerate(schemas):
        chance = Sampling(1.0, seed=seed)
        act = question(engine, compiler.compile(schema), max_tokens=60, sampling=chance)
        free = Request(act.blocks, act.event, max_tokens=20, sampling=chance)
        options = (np.array([40, 41], np.int32), np.array([50], np.int32))
        choice = Request(act.blocks, act.event, max_tokens=0, options=options)
        requests += [act, free, choice]
    together = engine.run(requests)
    for request, completion in zip(requests, together, strict=True):
        alone = engine.run([request])[0]
        assert completion.tokens == alone.tokens
        assert completion.finish_reason == alone.finish_reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "nonsense"},
        {"type": "string", "pattern": "("},
        {"not": {"type": "string"}},
        {"type": "array", "uniqueItems": True},
        {"$ref": "http://example.org/schema"},
        {"enum": []},
        {"type": "object", "properties": 5},
        {"const": float("nan")},
        {"const": b"bytes"},
        {"type": "string", "x-guidance": {"lenient": True}},
        {"x-guidance": {"lenient": True}, "not": {}},
        [],
        "string",
        None,
        3,
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_at_once(
    compiler: GrammarCompiler, wrong: Any
) -> None:
    with pytest.raises(InvalidInput) as caught:
        compiler.compile(wrong)
    assert caught.value.where == "schema"


def test_a_schema_beyond_the_parser_is_refused_at_once(compiler: GrammarCompiler) -> None:
    wide = {"type": "object", "properties": {f"k{i}": {"type": "null"} for i in range(20)}}
    with pytest.raises(InvalidInput, match="cannot be used"):
        compiler.compile({"anyOf": [wide] * 300})


def test_replies_under_one_grammar_do_not_touch_each_other(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(SELL)
    first, second = grammar.begin(), grammar.begin()
    assert first.forced() == second.forced()
    tokens = [int(token) for token in np.flatnonzero(first.mask(320))]
    first.accept(tokens[:1])
    assert second.mask(320)[tokens].all()
    second.accept(tokens[-1:])
    assert grammar.begin().forced()


def test_a_schema_of_unbounded_depth_is_refused_or_works(compiler: GrammarCompiler) -> None:
    deep: Schema = {"type": "string"}
    for _ in range(3000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InvalidInput):
        compiler.compile(deep)

"""Packed rows against the runtime's own block and full mode, and against one sample at a time."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint, oracle
from hypothesis import given
from hypothesis import strategies as st
from test_sink import plain
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask
from transformers import AutoModelForCausalLM

from game_agent.engine import Engine
from game_agent.finetuning.attention import (
    block_mask,
    dense_mask,
    num_exact,
    reply_logits,
    reply_loss,
    visibility,
)
from game_agent.finetuning.rows import make_row, pack
from game_agent.finetuning.samples import Sample
from game_agent.finetuning.settings import Attention
from game_agent.model.runner import load_runner
from game_agent.text.formats import Ints


def ids(rng: random.Random, num: int) -> Ints:
    return np.array([rng.randrange(5, VOCAB) for _ in range(num)], np.int32)


def sample(
    rng: random.Random, num_blocks: int, num_questions: int = 2, *, sink: Ints | None = None
) -> Sample:
    return Sample(
        tuple(ids(rng, rng.randint(1, 30)) for _ in range(num_blocks)),
        tuple(
            (ids(rng, rng.randint(1, 9)), ids(rng, rng.randint(1, 9))) for _ in range(num_questions)
        ),
        sink,
    )


def close(got: Tensor, expected: Tensor) -> bool:
    return bool(((got - expected).abs() / expected.abs().clamp_min(1)).max() < 1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("full", [False, True], ids=["block", "full"])
def test_logits_are_those_of_the_runtime(tmp_path: Path, family: str, full: bool) -> None:
    folder = make_checkpoint(tmp_path, family)
    engine, model, rng = (
        Engine(load_runner(folder, kv_memory_bytes=2**24)),
        oracle(folder),
        random.Random(0),
    )
    samples = [sample(rng, num_blocks, 3) for num_blocks in (1, 2, 7)]
    with torch.inference_mode():
        got = reply_logits(model, make_row(samples, full=full), "sdpa")
    expected = [
        engine.logits(s.blocks, np.concatenate([event, reply[:-1]]), "full" if full else "block")[
            len(event) - 1 :
        ]
        for s in samples
        for event, reply in s.questions
    ]
    engine.close()
    assert close(got, torch.cat(expected))


def test_logits_behind_a_sink_are_those_of_the_runtime(tmp_path: Path) -> None:
    folder, rng = make_checkpoint(tmp_path, rope="llama3"), random.Random(0)
    runner, model = (
        load_runner(folder, kv_memory_bytes=2**24, sink="Once upon a time."),
        oracle(folder),
    )
    assert runner.sink is not None
    engine = Engine(runner)
    one = sample(rng, 5, 1, sink=runner.sink.tokens)
    ((event, reply),) = one.questions
    asked = np.concatenate([event, reply[:-1]])
    for full in (False, True):
        with torch.inference_mode():
            got = reply_logits(model, make_row([one, one], full=full), "sdpa")
        expected = engine.logits(one.blocks, asked, "full" if full else "block")[len(event) - 1 :]
        assert close(got, torch.cat([expected, expected]))
    reference = plain(
        model, runner.sink.tokens.tolist(), [b.tolist() for b in one.blocks], asked.tolist()
    )
    with torch.inference_mode():
        got = reply_logits(model, make_row([one], full=False), "sdpa")
    assert close(got, reference[len(event) - 1 :])
    engine.close()


@pytest.mark.parametrize("full", [False, True], ids=["block", "full"])
def test_samples_and_questions_do_not_leak(tiny_checkpoint: Path, full: bool) -> None:
    """What a sample, or another question on the same blocks, says changes no one else's logits."""
    model, rng = oracle(tiny_checkpoint), random.Random(1)
    first, second = sample(rng, 3, 2), sample(rng, 4, 2)
    changed = Sample(
        tuple(ids(rng, len(block)) for block in first.blocks),
        tuple((ids(rng, len(e)), ids(rng, len(r))) for e, r in first.questions),
    )
    event, reply = second.questions[0]
    asked = Sample(second.blocks, ((ids(rng, len(event)), reply), second.questions[1]))
    num_first = sum(len(reply) for _, reply in first.questions)
    with torch.inference_mode():
        before, other, third = (
            reply_logits(model, make_row(samples, full=full), "sdpa")
            for samples in ((first, second), (changed, second), (first, asked))
        )
    assert not torch.allclose(before[:num_first], other[:num_first], atol=1e-2)
    assert torch.equal(before[num_first:], other[num_first:])
    assert torch.equal(before[:num_first], third[:num_first])
    last = len(second.questions[1][1])
    assert torch.equal(before[-last:], third[-last:])
    assert not torch.equal(before[num_first], third[num_first])


@pytest.mark.parametrize("full", [False, True], ids=["block", "full"])
def test_packed_loss_and_gradient_are_the_sum(tiny_checkpoint: Path, full: bool) -> None:
    model, rng = oracle(tiny_checkpoint), random.Random(2)
    samples = [sample(rng, n, sink=ids(rng, 4) if n % 2 else None) for n in (1, 4, 6)]

    def loss(group: list[Sample]) -> float:
        row = make_row(group, full=full)
        value = reply_loss(reply_logits(model, row, "sdpa"), row)
        value.backward()
        return value.item()

    packed = loss(samples)
    gradient = model.model.layers[0].self_attn.k_proj.weight.grad.clone()
    model.zero_grad()
    alone = sum(loss([one]) for one in samples)
    assert packed == pytest.approx(alone, rel=1e-5)
    assert torch.allclose(
        gradient, model.model.layers[0].self_attn.k_proj.weight.grad, rtol=1e-3, atol=1e-4
    )


def test_the_mask_by_hand() -> None:
    """A sink s, blocks a and b, an event e with its reply r: rows s a s b e r."""
    s, a, b, e, r = (np.array([token], np.int32) for token in (5, 6, 7, 8, 9))
    end = np.array([9, 4], np.int32)
    row = make_row([Sample((a, b), ((e, end),), s)], full=False)
    assert row.tokens.tolist() == [5, 6, 5, 7, 8, 9]
    assert row.positions.tolist() == [0, 1, 1, 2, 3, 4]
    assert dense_mask(row)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 1, 1],
    ]
    assert row.label_rows.tolist() == [4, 5]
    assert row.labels.tolist() == [9, 4]
    whole = make_row([Sample((a, b), ((e, np.concatenate([r, end[1:]])),), s)], full=True)
    assert whole.tokens.tolist() == [6, 7, 8, 9]
    assert torch.equal(dense_mask(whole)[0, 0], torch.ones(4, 4).tril().bool())


def test_the_mask_of_flex_attention() -> None:
    rng = random.Random(3)
    row = make_row([sample(rng, n, sink=ids(rng, 3)) for n in (2, 5, 9)], full=False).padded(128)
    assert len(row) % 128 == 0
    dense = dense_mask(row)
    assert torch.equal(create_mask(visibility(row), None, None, len(row), len(row), "cpu"), dense)
    assert bool(dense.any(-1).all()), "a row that sees nothing has no softmax"
    seen = block_mask(row).to_dense()[0, 0].bool()
    tiles = dense[0, 0].unfold(0, 128, 128).unfold(1, 128, 128).flatten(2).any(-1)
    assert torch.equal(seen, tiles)


def test_exact_replies_are_counted() -> None:
    row = make_row([sample(random.Random(4), 2, 5)], full=False)
    logits = torch.nn.functional.one_hot(row.labels, VOCAB).float()
    assert num_exact(logits, row) == 5
    logits[0] = logits[0].roll(1)
    assert num_exact(logits, row) == 4


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(70, 200), st.randoms())
def test_packing_loses_nothing(sizes: list[int], limit: int, rng: random.Random) -> None:
    samples = [
        Sample((np.zeros(size, np.int32),), ((np.zeros(3, np.int32), np.zeros(2, np.int32)),))
        for size in sizes
    ]
    order = rng.sample(range(len(sizes)), len(sizes))
    groups = list(pack(samples, order, limit))
    assert [number for group in groups for number in group] == order
    for group in groups:
        total = sum(samples[number].num_tokens for number in group)
        assert total <= limit
        assert total == len(make_row([samples[number] for number in group], full=False))
    # No group would have had room for the first of the next.
    for group, following in pairwise(groups):
        total = sum(samples[number].num_tokens for number in group)
        assert total + samples[following[0]].num_tokens > limit


@pytest.mark.slow
def test_flex_attention_gives_the_same_logits(tiny_checkpoint: Path) -> None:
    """Compiled for the CPU, which can do the forward pass only."""
    rng = random.Random(5)
    samples = [sample(rng, n, sink=ids(rng, 3)) for n in (3, 8)]
    models = {
        name: AutoModelForCausalLM.from_pretrained(tiny_checkpoint, attn_implementation=name).eval()
        for name in get_args(Attention)
    }
    for full in (False, True):
        row = make_row(samples, full=full)
        with torch.no_grad():
            logits = [reply_logits(model, row, name) for name, model in models.items()]
        assert close(*logits)

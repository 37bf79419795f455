"""Drawing tokens for many rows at once: by torch on any device, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from game_agent_kernels import Draws
from game_agent_kernels.sample import batch, reference

try:
    from game_agent_kernels import native
    from game_agent_kernels.sample import cpu
except ImportError:
    BACKENDS: list[Any] = [batch.sample_rows]
else:
    BACKENDS = [batch.sample_rows, cpu.sample_rows]

SampleRows = Callable[[Tensor, Draws], Tensor]
LAST = float(np.nextafter(np.float32(1), np.float32(0)))  # the highest chance


@pytest.fixture(params=BACKENDS, ids=["torch", "compiled"][: len(BACKENDS)])
def sample_rows(request: pytest.FixtureRequest) -> SampleRows:
    found: SampleRows = request.param
    return found


def logits_of(seed: int, rows: int = 1, vocab: int = 11) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def draws_of(
    temperatures: Any, chances: Any, top_ps: Any = 1.0, top_ks: Any = 0, rows: int | None = None
) -> Draws:
    """One value for all of the rows, or one for each."""
    count = rows if rows is not None else max(map(np.size, (temperatures, chances)))
    kinds = (np.float32, np.float32, np.int64, np.float32)
    values = (temperatures, top_ps, top_ks, chances)
    return Draws(*(np.broadcast_to(v, count).astype(k) for v, k in zip(values, kinds, strict=True)))


def draw_evenly(
    sample_rows: SampleRows,
    logits: Tensor,
    temperature: float,
    top_p: float,
    count: int,
    top_k: int = 0,
) -> Tensor:
    """Frequency of each token over evenly spaced draws: the distribution itself."""
    draws = draws_of(temperature, (np.arange(count) + 0.5) / count, top_p, top_k)
    tokens = sample_rows(logits.repeat(count, 1), draws)
    return torch.bincount(tokens, minlength=logits.shape[1]) / count


@pytest.mark.parametrize("sample", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.2, 0.8, 1.0]))
def test_the_distribution_is_the_references(
    sample: SampleRows, seed: int, temperature: float, top_p: float
) -> None:
    logits = logits_of(seed)
    probs = torch.softmax(logits[0] / temperature, -1)
    ordered, order = probs.sort(descending=True)
    keep = order[(ordered.cumsum(0) - ordered) < top_p]
    expected = torch.zeros_like(probs)
    expected[keep] = probs[keep] / probs[keep].sum()
    got = draw_evenly(sample, logits, temperature, top_p, 2000)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


def test_top_k_keeps_the_most_likely(sample_rows: SampleRows) -> None:
    logits = logits_of(3)
    frequencies = draw_evenly(sample_rows, logits, 1.0, 1.0, 500, top_k=3)
    assert set(frequencies.nonzero().flatten().tolist()) == set(logits[0].topk(3).indices.tolist())


def test_rows_do_not_depend_on_each_other(sample_rows: SampleRows) -> None:
    logits = logits_of(5, rows=6)
    draws = draws_of(
        [0.0, 1.0, 0.7, 0.0, 2.0, 1.0],
        torch.rand(6, generator=torch.Generator().manual_seed(0)).numpy(),
        [1.0, 0.5, 0.9, 0.1, 1.0, 1e-6],
        [0, 0, 2, 1, 0, 0],
    )
    together = sample_rows(logits, draws)
    for i in range(6):
        one = slice(i, i + 1)
        alone = sample_rows(logits[one], Draws(*(array[one] for array in draws)))
        assert alone.item() == together[i].item()
    best = logits.argmax(-1)
    assert together[[0, 3, 5]].tolist() == best[[0, 3, 5]].tolist()


@pytest.mark.parametrize("chance", [0.0, LAST])
def test_the_ends_of_chance_are_tokens(sample_rows: SampleRows, chance: float) -> None:
    logits = logits_of(8)
    by_weight = sample_rows(logits, draws_of(1.0, chance, top_ks=11)).item()
    assert by_weight == (logits[0].argmax() if chance == 0.0 else logits[0].argmin()).item()
    by_id = sample_rows(logits, draws_of(1.0, chance)).item()
    assert by_id == (0 if chance == 0.0 else 10)


def test_a_greedy_row_is_the_references(sample_rows: SampleRows) -> None:
    logits = logits_of(9)
    logits[0, [4, 7]] = 9.0  # the lower id among equals
    token = sample_rows(logits, draws_of(0.0, 0.5))
    assert token.item() == reference.sample(logits[0], 0.0, 1.0, torch.Generator()) == 4


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45])
@pytest.mark.parametrize("top_k", [0, 3])
def test_the_lower_the_temperature_the_likelier(
    sample_rows: SampleRows, temperature: float, top_k: int
) -> None:
    logits = logits_of(2)
    token = sample_rows(logits, draws_of(temperature, 0.9, top_ks=top_k))
    assert token.item() == logits.argmax().item()


def test_without_cuts_the_distribution_is_that_of_the_softmax(sample_rows: SampleRows) -> None:
    logits = logits_of(4)
    frequencies = draw_evenly(sample_rows, logits, 1.0, 1.0, 4000)
    torch.testing.assert_close(frequencies, logits[0].softmax(-1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("top_p", [1.0, 0.5])
@pytest.mark.parametrize("top_k", [0, 9])
@pytest.mark.parametrize("chance", [0.0, 0.5, LAST])
def test_a_forbidden_token_is_never_drawn(
    sample_rows: SampleRows, chance: float, top_p: float, top_k: int
) -> None:
    logits = torch.full((1, 9), -torch.inf)
    logits[0, [3, 6]] = torch.tensor([0.1, 0.2])
    assert sample_rows(logits, draws_of(1.0, chance, top_p, top_k)).item() in (3, 6)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, None])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [0, 3])
def test_what_is_no_number_gives_no_token(
    sample_rows: SampleRows, wrong: float | None, temperature: float, top_k: int
) -> None:
    """Not in its own row only: the other rows get theirs. Nothing allowed is nothing, too."""
    logits = logits_of(1, rows=3, vocab=40)
    expected = logits.argmax(-1)
    if wrong is None:
        logits[1] = -torch.inf
    else:
        logits[1, 33] = wrong
    got = sample_rows(logits, draws_of([temperature] * 3, 0.0, 1e-6, top_k))
    assert got.tolist() == [expected[0], -1, expected[2]]


@pytest.mark.skipif(len(BACKENDS) == 1, reason="the extension is not built")
@pytest.mark.parametrize("name", ["plain", "best"])
@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 255, 256, 257, 3072, 50_001])
def test_compiled_draws_torchs_tokens(name: str, vocab: int) -> None:
    """But where the chance falls on the rounding of a sum, the next token."""
    before = native.instruction_set()
    native.set_instruction_set("plain" if name == "plain" else native.instruction_sets()[0])
    try:
        rng = np.random.default_rng(vocab)
        for temperature, top_p, top_k in (
            (1.0, 1.0, 0),
            (0.3, 1.0, 0),
            (1.0, 0.9, 0),
            (5.0, 0.999, 0),
            (1.0, 1.0, 40),
            (0.7, 0.95, 7),
            (100.0, 0.5, 1),
            (1e-30, 1.0, 0),
            (1e-30, 0.9, 0),
        ):
            logits = torch.from_numpy(rng.normal(0, 3, (24, vocab)).astype(np.float32))
            draws = draws_of([temperature] * 24, rng.random(24, np.float32), top_p, top_k)
            # In twice the bits, so that nothing but the compiled sums is rounded.
            got, expected = cpu.sample_rows(logits, draws), sample_precisely(logits, draws)
            assert (got == expected).float().mean() >= 23 / 24, (temperature, top_p, top_k)
    finally:
        native.set_instruction_set(before)


def sample_precisely(logits: Tensor, draws: Draws) -> Tensor:
    """The contract in float64, a row at a time."""
    tokens = []
    for row, temperature, top_p, top_k, chance in zip(logits.double(), *draws, strict=True):
        probs = torch.softmax((row - row.max()) / float(temperature), -1)
        order = torch.arange(len(row))
        if top_p < 1 or top_k:
            probs, order = probs.sort(descending=True, stable=True)
            kept = probs.cumsum(0) - probs < float(top_p)
            kept[int(top_k) or len(row) :] = False
            kept[0] = True
            probs = probs * kept
        cumulated = probs.cumsum(0)
        place = int((cumulated <= float(chance) * cumulated[-1]).sum())
        tokens.append(int(order[min(place, len(row) - 1)]))
    return torch.tensor(tokens)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"temperatures": np.ones(3)}, TypeError),
        ({"top_ps": np.ones(2, np.float32)}, ValueError),
        ({"top_ks": np.zeros(3, np.int32)}, TypeError),
        ({"chances": np.zeros((2, 3), np.float32)}, ValueError),
        ({"temperatures": np.full(3, np.nan, np.float32)}, ValueError),
        ({"top_ps": np.full(3, -1, np.float32)}, ValueError),
        ({"top_ks": np.full(3, -1)}, ValueError),
        ({"chances": np.zeros(6, np.float32)[::2]}, TypeError),
    ],
)
def test_draws_that_do_not_fit(
    sample_rows: SampleRows, wrong: dict[str, Any], error: type[Exception]
) -> None:
    draws = Draws.greedy(3)._replace(**wrong)
    with pytest.raises(error, match=next(iter(wrong))):
        sample_rows(logits_of(0, rows=3), draws)

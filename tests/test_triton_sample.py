"""Drawing tokens for many rows at once, on any device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent_kernels.sample import reference
from game_agent_kernels.sample.batch import sample_rows


def logits_of(seed: int, rows: int = 1, vocab: int = 11) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2


def draw_evenly(
    logits: torch.Tensor, temperature: float, top_p: float, count: int, top_k: int = 0
) -> torch.Tensor:
    """Frequency of each token over evenly spaced draws: the distribution itself."""
    draws = (torch.arange(count) + 0.5) / count
    ones = torch.ones(count)
    tokens = sample_rows(
        logits.expand(count, -1),
        ones * temperature,
        ones * top_p,
        draws,
        torch.full((count,), top_k),
    )
    return torch.bincount(tokens, minlength=logits.shape[1]) / count


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.2, 0.8, 1.0]))
def test_the_distribution_is_the_references(seed: int, temperature: float, top_p: float) -> None:
    logits = logits_of(seed)
    probs = torch.softmax(logits[0] / temperature, -1)
    ordered, order = probs.sort(descending=True)
    keep = order[(ordered.cumsum(0) - ordered) < top_p]
    expected = torch.zeros_like(probs)
    expected[keep] = probs[keep] / probs[keep].sum()
    torch.testing.assert_close(
        draw_evenly(logits, temperature, top_p, 2000), expected, atol=2e-3, rtol=0
    )


def test_top_k_keeps_the_most_likely() -> None:
    logits = logits_of(3)
    frequencies = draw_evenly(logits, 1.0, 1.0, 500, top_k=3)
    assert set(frequencies.nonzero().flatten().tolist()) == set(logits[0].topk(3).indices.tolist())


def test_rows_do_not_depend_on_each_other() -> None:
    logits = logits_of(5, rows=6)
    temperatures = torch.tensor([0.0, 1.0, 0.7, 0.0, 2.0, 1.0])
    top_ps = torch.tensor([1.0, 0.5, 0.9, 0.1, 1.0, 1e-6])
    draws = torch.rand(6, generator=torch.Generator().manual_seed(0))
    together = sample_rows(logits, temperatures, top_ps, draws)
    for i in range(6):
        one = slice(i, i + 1)
        alone = sample_rows(logits[one], temperatures[one], top_ps[one], draws[one])
        assert alone.item() == together[i].item()
    best = logits.argmax(-1)
    assert together[[0, 3, 5]].tolist() == best[[0, 3, 5]].tolist()


@pytest.mark.parametrize("draw", [0.0, 1.0 - 2**-24])
def test_the_ends_of_chance_are_tokens(draw: float) -> None:
    logits = logits_of(8)
    token = sample_rows(logits, torch.ones(1), torch.ones(1), torch.tensor([draw]))
    wanted = logits[0].argmax() if draw == 0.0 else logits[0].argmin()
    assert token.item() == wanted.item()


def test_a_greedy_row_is_the_references() -> None:
    logits = logits_of(9)
    token = sample_rows(logits, torch.zeros(1), torch.ones(1), torch.tensor([0.5]))
    assert token.item() == reference.sample(logits[0], 0.0, 1.0, torch.Generator())


def test_without_cuts_the_distribution_is_that_of_the_softmax() -> None:
    logits = logits_of(4)
    draws = (torch.arange(4000) + 0.5) / 4000
    tokens = sample_rows(logits.expand(4000, -1), torch.ones(4000), None, draws)
    frequencies = torch.bincount(tokens, minlength=11) / 4000
    torch.testing.assert_close(frequencies, logits[0].softmax(-1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("top_p", [None, 1.0, 0.5])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0 - 2**-24])
def test_a_forbidden_token_is_never_drawn(draw: float, top_p: float | None) -> None:
    logits = torch.full((1, 9), -torch.inf)
    logits[0, [3, 6]] = torch.tensor([0.1, 0.2])
    cut = None if top_p is None else torch.tensor([top_p])
    assert sample_rows(logits, torch.ones(1), cut, torch.tensor([draw])).item() in (3, 6)

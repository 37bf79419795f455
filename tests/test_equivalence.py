"""The runtime's answers are the trained network's, as ``bench/equivalence.py`` compares them.

``make prove`` compares 200 scenes.
"""

from __future__ import annotations

import random

import pytest
import torch

from bench.equivalence import MODES, WAYS, Mode, Reference, run
from game_agent.runtime import bundled_folder


def test_20_held_out_scenes() -> None:
    tallies = run(bundled_folder(), 20, seed=2)
    assert set(tallies) == {(way, mode) for way in WAYS for mode in MODES}
    for tally in tallies.values():
        assert not tally.wrong
        assert tally.scenes >= 20
        assert tally.tokens > 4 * tally.replies > 0
        assert tally.ties <= tally.tokens / 200


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(bundled_folder())


def greedy(reference: Reference, number: int, mode: Mode) -> list[list[int]]:
    """Token by token, one forward pass for each: what ``check`` finds right in one."""
    case = reference.case(random.Random(number), number)
    replies: list[list[int]] = [[0] for _ in case.questions]
    for _ in range(6):
        logits = reference.logits(case, replies, mode)
        ends = torch.tensor([len(reply) for reply in replies]).cumsum(0) - 1
        for reply, token in zip(replies, logits[ends].argmax(1).tolist(), strict=True):
            reply[-1:] = [token, 0]
    return [reply[:-1] for reply in replies]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_checked_at_once_is_greedy_decoding(reference: Reference, mode: Mode) -> None:
    case = reference.case(random.Random(7), 7)
    replies = greedy(reference, 7, mode)
    verdict = reference.check(case, replies, mode)
    assert (verdict.tokens, verdict.ties, verdict.wrong) == (6 * len(replies), 0, ())


@pytest.mark.parametrize("mode", MODES)
def test_another_token_is_found(reference: Reference, mode: Mode) -> None:
    case = reference.case(random.Random(7), 7)
    replies = greedy(reference, 7, mode)
    replies[1][3] += 1
    (wrong,) = reference.check(case, replies, mode).wrong
    assert repr(case.questions[1].event) in wrong

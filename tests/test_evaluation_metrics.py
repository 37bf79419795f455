"""Metrics on cases worked out by hand, intervals against what is known."""

from __future__ import annotations

import random

import pytest

from game_agent.evaluation.metrics import normalize, score
from game_agent.intervals import difference, interval


def test_normal_form() -> None:
    assert normalize("The  Cat's hat, AN apple;\na Theatre!") == "cats hat apple theatre"
    assert normalize("Röntgen’s") == "röntgen’s"  # ASCII punctuation only
    assert normalize("a the an") == ""


@pytest.mark.parametrize(
    ("reply", "answers", "substring", "f1", "exact"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], 1, 1, 1),
        # Substr-EM forgives what stands around; two of five words are right, both of the answer.
        ("It is in Paris, France", ["Paris, France"], 1, 2 * 2 / (5 + 2), 0),
        # Letters, not words: the paper's metric finds "art" in "cart".
        ("a cart", ["art"], 1, 0, 0),
        ("in Lyon", ["Paris", "Lyon"], 1, 2 * 1 / (2 + 1), 0),
        ("no idea", ["Paris"], 0, 0, 0),
        # A repeated word counts as often as both have it: 1 of 3, 1 of 2.
        ("new new new", ["new york"], 0, 2 * 1 / (3 + 2), 0),
        ("", ["Paris"], 0, 0, 0),
        ("", ["The"], 1, 1, 1),
        # The best answer for each metric: F1 from the long one, the rest from the short one.
        ("red big dog", ["dog", "big red dog"], 1, 1, 0),
    ],
)
def test_scores(reply: str, answers: list[str], substring: float, f1: float, exact: float) -> None:
    assert score(reply, answers).values == pytest.approx((substring, f1, exact))


def test_an_interval_of_single_trials_is_nearly_binomial() -> None:
    values = [1.0] * 70 + [0.0] * 30
    found = interval(values, range(100))
    assert found.mean == 0.7
    assert found.low == pytest.approx(0.7 - 1.96 * 0.0458, abs=0.02)
    assert found.high == pytest.approx(0.7 + 1.96 * 0.0458, abs=0.02)
    assert interval(values, range(100)) == found
    assert found.text().startswith("70.0 (6")


def test_groups_make_an_interval_wider() -> None:
    rng = random.Random(0)
    values = [float(value) for _ in range(40) for value in [rng.random() < 0.5] * 10]
    alone = interval(values, range(400))
    together = interval(values, [index // 10 for index in range(400)])
    width = (together.high - together.low) / (alone.high - alone.low)
    assert width == pytest.approx(10**0.5, rel=0.2)


def test_all_right_is_not_certain() -> None:
    found = interval([1.0] * 20, range(20))
    assert found.mean == found.high == 1
    assert found.low == pytest.approx(0.839, abs=0.001)  # Wilson's for 20 of 20
    assert interval([0.0] * 20, range(20)).high == pytest.approx(0.161, abs=0.001)
    assert interval([1.0], [0]).low < 0.3
    # Groups that do not differ tell no more and no less than their values: Wilson's for 20 of 40.
    halves = interval([1.0, 0.0] * 20, [index // 20 for index in range(40)])
    assert (halves.low, halves.high) == pytest.approx((0.352, 0.648), abs=0.001)


def test_a_difference_on_the_same_questions() -> None:
    found = difference([0.0] * 90 + [-1.0] * 9 + [1.0], range(100))
    assert found.mean == pytest.approx(-0.08)
    assert -0.15 < found.low < found.mean < found.high < 0
    assert found.text("+.1f").startswith("-8.0 (-1")
    same = difference([0.0] * 9, range(9))
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert same.text("+.1f") == "+0.0 (+0.0 – +0.0)"

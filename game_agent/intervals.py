"""How certain a mean is: 95 % intervals by the bootstrap, of groups that belong together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 1000
_Z = 1.959964  # of a normal distribution's 97.5 %


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds within which the true one lies with 95 % confidence."""

    mean: float
    low: float
    high: float

    def text(self, form: str = ".1f") -> str:
        """In percent, as ``70.0 (60.5 – 78.1)``; ``form`` is a number's format, as ``+.1f``."""
        mean, low, high = (f"{100 * value:{form}}" for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} – {high})"


def interval(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """Of the mean of ``values`` [n ≥ 1], which lie between 0 and 1.

    groups: [n], what each value belongs to. Questions on one scene are right or wrong together more
    often than others, so whole groups are drawn (the cluster bootstrap; Efron & Tibshirani, 1993).
    Where all groups have the same mean nothing can be learned from drawing, and the interval is
    Wilson's (1927): for as many trials as there are values, or as there are groups where all is
    right or all is wrong. Of fewer than about ten groups, intervals are too narrow. Same input,
    same interval.
    """
    found, num_groups = _bootstrap(values, groups)
    mean = float(np.mean(values))
    return found or _wilson(mean, num_groups if mean in (0.0, 1.0) else len(values))


def difference(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """Of the mean of differences [n ≥ 1], each between -1 and 1; groups as in :func:`interval`.

    Where all groups have the same mean it is that mean: nothing was seen to differ.
    """
    found, _ = _bootstrap(values, groups)
    mean = float(np.mean(values))
    return found or Interval(mean, mean, mean)


def _bootstrap(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[Interval | None, int]:
    """(the interval or None where all groups have the same mean, number of groups)."""
    places = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    owner = np.array([places[group] for group in groups])
    sums = np.bincount(owner, weights=np.array(values, np.float64)).astype(np.float64)
    counts = np.bincount(owner).astype(np.float64)
    if np.ptp(sums / counts) < 1e-9:
        return None, len(places)
    low, high = np.percentile(_resampled(sums, counts), [2.5, 97.5])
    return Interval(float(np.mean(values)), float(low), float(high)), len(places)


def _resampled(
    sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Means [NUM_RESAMPLES] of as many groups drawn with replacement."""
    rng = np.random.default_rng(0)
    means = np.empty(NUM_RESAMPLES)
    for index in range(NUM_RESAMPLES):
        drawn = rng.integers(0, len(sums), len(sums))
        means[index] = sums[drawn].sum() / counts[drawn].sum()
    return means


def _wilson(share: float, num_trials: int) -> Interval:
    """The score interval of a binomial share."""
    square = _Z**2 / num_trials
    centre = (share + square / 2) / (1 + square)
    spread = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return Interval(share, float(max(0.0, centre - spread)), float(min(1.0, centre + spread)))

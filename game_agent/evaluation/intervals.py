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

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} ({100 * self.low:.1f} – {100 * self.high:.1f})"


def interval(values: Sequence[float], groups: Sequence[Hashable]) -> Interval:
    """Of the mean of ``values`` [n ≥ 1], which lie between 0 and 1.

    groups: [n], what each value belongs to. Questions on one scene are right or wrong together more
    often than others, so whole groups are drawn (the cluster bootstrap; Efron & Tibshirani, 1993).
    Where all groups have the same mean nothing can be learned from drawing, and the interval is
    Wilson's (1927) for as many trials as there are groups. Same input, same interval.
    """
    places = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    owner = np.array([places[group] for group in groups])
    sums = np.bincount(owner, weights=np.array(values, np.float64)).astype(np.float64)
    counts = np.bincount(owner).astype(np.float64)
    mean = float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) < 1e-9:
        return _wilson(mean, len(places))
    low, high = np.percentile(_resampled(sums, counts), [2.5, 97.5])
    return Interval(mean, float(low), float(high))


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

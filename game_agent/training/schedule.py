"""How training spends its budget: learning rates and random batches as shares of it."""

from __future__ import annotations

from dataclasses import dataclass

WARM_UP_STEPS = 40
DECAY_FROM = 0.4  # share of the time after which the rates fall
LAST_RATE = 0.03
# Share of batches in which random tokens are copied, until a share of the time has passed.
RANDOM_SHARES = ((0.1, 0.3), (0.5, 0.08))


@dataclass(frozen=True)
class Budget:
    """How much is trained; all schedules are shares of it.

    minutes: of wall-clock time, what comes of it depends on the machine; or
    tokens:  of context and events, what comes of it depends on the seed alone
    """

    minutes: float | None = None
    tokens: int | None = None

    def share(self, elapsed_s: float, num_tokens: int) -> float:
        """The part that is spent; the limit that is reached first counts."""
        by_time = elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        by_tokens = num_tokens / self.tokens if self.tokens else 0.0
        return max(by_time, by_tokens)


def random_share(share: float) -> float:
    """The share of random batches when ``share`` of the time has passed."""
    return next((part for until, part in RANDOM_SHARES if share < until), 0.0)


def rate_factor(share: float, num_steps: int) -> float:
    """Warm-up by steps, then a constant, then a straight line down to the end of the time."""
    decay = max(0.0, share - DECAY_FROM) / (1 - DECAY_FROM)
    return min(1.0, (num_steps + 1) / WARM_UP_STEPS) * (1 - (1 - LAST_RATE) * min(1.0, decay))

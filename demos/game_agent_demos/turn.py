"""One tick of the demo as it is shown, and what a game's ticks add up to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A tick whose question was answered. Times in milliseconds, context in tokens.

    ``ttft_ms`` runs from sending the tick, change of the world included, to the first piece of the
    answer, on the game's side of the socket.
    """

    tick: int
    action: str
    num_facts_changed: int
    num_blocks_changed: int
    num_blocks: int
    cached_tokens: int
    encoded_tokens: int
    prefill_tokens: int
    ttft_ms: float
    question: str
    answer: str
    agrees: bool

    @property
    def context_tokens(self) -> int:
        return self.cached_tokens + self.encoded_tokens + self.prefill_tokens


def summary(turns: Sequence[Turn], elapsed_s: float) -> list[str]:
    """The game in a few sentences."""
    if not turns:
        return ["No tick was played."]
    num_agreeing = sum(turn.agrees for turn in turns)
    context_tokens = sum(turn.context_tokens for turn in turns)
    cached_tokens = sum(turn.cached_tokens for turn in turns)
    computed_tokens = context_tokens - cached_tokens
    ttfts_ms = [turn.ttft_ms for turn in turns]
    return [
        f"{len(turns)} ticks in {elapsed_s:.1f} s: "
        f"{sum(turn.num_facts_changed for turn in turns)} facts and "
        f"{sum(turn.num_blocks_changed for turn in turns)} blocks changed.",
        f"{num_agreeing} of {len(turns)} answers agree with the game's own facts.",
        f"Time to the first token: median {statistics.median(ttfts_ms):.0f} ms, "
        f"longest {max(ttfts_ms):.0f} ms.",
        f"Of {context_tokens:,} context tokens {cached_tokens / context_tokens:.1%} came from the "
        f"cache; {computed_tokens:,} were computed, "
        f"{computed_tokens / len(turns):.0f} a tick.",
    ]

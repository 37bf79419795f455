"""Everything that a soak will send and when, fixed before it begins. Pure.

An open loop: the schedule does not wait for answers, so a slow server cannot slow the load that
measures it, and latency counts from the moment a request was *meant* to be sent.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from game_agent.errors import InvalidInput

Kind = Literal["tick", "ask", "cancel", "reconnect", "encode"]
Phase = Literal["steady", "updates", "bursts", "idle", "encodes", "cancels", "reconnects"]
PHASES: tuple[Phase, ...] = (
    "steady",
    "updates",
    "bursts",
    "idle",
    "encodes",
    "cancels",
    "reconnects",
)
"""
steady:     ticks change one small block; asks come by Poisson
updates:    every tick changes a block in the middle of the prompt
bursts:     asks come in groups at the same moment, at the same mean rate
idle:       no asks for most of the phase
encodes:    blocks that nobody waits for are encoded in the background
cancels:    every second ask is cancelled soon after it was sent
reconnects: the connection is cut and the session resumed, again and again
"""
ROUND_S = 140.0
"""All phases come once in each round of about so long, so that drift shows in every one."""
BURST_ASKS = 8
IDLE_SHARE = 0.75
CANCEL_AFTER_S = 0.1
RECONNECT_EVERY_S = 2.0
ENCODE_EVERY_S = 1.0


@dataclass(frozen=True)
class SoakSettings:
    """How much load, for how long. Raises ``InvalidInput`` for a value that is not positive.

    ticks_per_s:    state ticks, at equal distances
    asks_per_s:     the mean of the Poisson process
    context_tokens: about how long a prompt is; the report tells how long it was
    max_tokens:     longest reply
    deadline_ms:    of each ask; a later end is a miss
    """

    duration_s: float = 600.0
    num_agents: int = 32
    ticks_per_s: float = 10.0
    asks_per_s: float = 4.0
    context_tokens: int = 2048
    max_tokens: int = 16
    deadline_ms: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "seed" and not 0 < value < math.inf:
                raise InvalidInput(f"{name} must be positive, not {value}", where=name)


@dataclass(frozen=True)
class Event:
    """One thing to do. ``number`` counts the events of a kind; a cancel has its ask's number."""

    at_s: float
    kind: Kind
    phase: Phase
    number: int


@dataclass(frozen=True)
class Span:
    """A stretch of time in one phase."""

    phase: Phase
    start_s: float
    end_s: float


def spans(duration_s: float) -> list[Span]:
    """The phases in turn, in whole rounds, all equally long."""
    num_rounds = max(1, round(duration_s / ROUND_S))
    length_s = duration_s / (num_rounds * len(PHASES))
    return [
        Span(phase, index * length_s, (index + 1) * length_s)
        for index, phase in enumerate(PHASES * num_rounds)
    ]


def schedule(settings: SoakSettings) -> list[Event]:
    """All events, in order of time; the same for the same settings."""
    chance = random.Random(settings.seed)
    events: list[Event] = []
    num_ticks = num_asks = num_encodes = num_reconnects = 0
    for span in spans(settings.duration_s):
        while (at_s := num_ticks / settings.ticks_per_s) < span.end_s:
            events.append(Event(at_s, "tick", span.phase, num_ticks))
            num_ticks += 1
        for at_s in _asks(span, settings.asks_per_s, chance):
            events.append(Event(at_s, "ask", span.phase, num_asks))
            if span.phase == "cancels" and num_asks % 2:
                late_s = at_s + chance.expovariate(1 / CANCEL_AFTER_S)
                events.append(Event(late_s, "cancel", span.phase, num_asks))
            num_asks += 1
        if span.phase == "encodes":
            for at_s in _every(ENCODE_EVERY_S, span):
                events.append(Event(at_s, "encode", span.phase, num_encodes))
                num_encodes += 1
        if span.phase == "reconnects":
            for at_s in _every(RECONNECT_EVERY_S, span):
                events.append(Event(at_s, "reconnect", span.phase, num_reconnects))
                num_reconnects += 1
    return sorted(events, key=lambda event: event.at_s)


def _asks(span: Span, per_s: float, chance: random.Random) -> Iterator[float]:
    """The moments of a span's asks."""
    at_s, group = span.start_s, 1
    if span.phase == "idle":
        at_s += IDLE_SHARE * (span.end_s - span.start_s)
    elif span.phase == "bursts":
        group = BURST_ASKS
    while (at_s := at_s + chance.expovariate(per_s / group)) < span.end_s:
        for _ in range(group):
            yield at_s


def _every(distance_s: float, span: Span) -> list[float]:
    """Moments at equal distances, one at least, none at the borders of the span."""
    length_s = span.end_s - span.start_s
    count = max(1, round(length_s / distance_s))
    return [span.start_s + (index + 0.5) * length_s / count for index in range(count)]

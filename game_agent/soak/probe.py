"""One well-behaved player whose waits tell how a server treats the others."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from game_agent.client import Client
from game_agent.soak.game import Game
from game_agent.soak.schedule import SoakSettings

SET_UP_S = 120.0
QUESTION = "How many are there?"


@dataclass
class Waits:
    """Milliseconds from the intended send time of each question: to its first text, to its end."""

    ttft_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    num_context_tokens: int = 0

    def extend(self, other: Waits) -> None:
        self.ttft_ms += other.ttft_ms
        self.total_ms += other.total_ms
        self.num_context_tokens = other.num_context_tokens


def quantile(values_ms: list[float], share: float) -> float:
    """By linear interpolation; NaN if there are none."""
    return float(np.quantile(values_ms, share)) if values_ms else float("nan")


class Probe:
    """Asks one character, at equal distances, questions that are not remembered.

    The game is the soak's. Raises what the client raises: every question must be answered.
    """

    def __init__(self, endpoint: str, context_tokens: int, max_tokens: int) -> None:
        settings = SoakSettings(num_agents=1, context_tokens=context_tokens)
        self._game = Game(settings)
        self._max_tokens = max_tokens
        self.client = Client(endpoint, timeout_s=SET_UP_S)
        self.state = self._game.set_up()[0][1]["state"]
        self.client.world_put("probe", self.state)
        self.client.agent_put("probe", world="probe", profile="The probe answers.")
        self._ask(time.monotonic(), Waits())
        blocks = self.client.inspect("probe", QUESTION)
        self._num_context_tokens = sum(block["tokens"] for block in blocks)

    def close(self) -> None:
        self.client.close()

    def ask_for(self, duration_s: float, per_s: float) -> Waits:
        """Ask for so long. A question that comes late because of the one before counts as late."""
        waits = Waits(num_context_tokens=self._num_context_tokens)
        begun_s = time.monotonic()
        for number in range(round(duration_s * per_s)):
            due_s = begun_s + number / per_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._ask(due_s, waits)
        return waits

    def _ask(self, due_s: float, waits: Waits) -> None:
        first_s = None
        for _ in self.client.stream("probe", QUESTION, max_tokens=self._max_tokens, remember=False):
            first_s = first_s or time.monotonic()
        end_s = time.monotonic()
        waits.ttft_ms.append(((first_s or end_s) - due_s) * 1e3)
        waits.total_ms.append((end_s - due_s) * 1e3)

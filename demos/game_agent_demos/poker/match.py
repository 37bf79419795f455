"""Players with a mind of their own: each sees the table and its own cards, and chooses."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from game_agent.agents.agent import Agent
from game_agent.runtime import Runtime
from game_agent_demos.poker.table import Table
from game_agent_demos.state import difference

WORLD = "table"
# Each field of the table and of a player is a block, and so is each line of the history.
RULES = [{"path": path, "do": "split"} for path in ("/table", "/players/*", "/history/*")]
STYLES = (
    "plays few hands and raises with good ones",
    "calls often and seldom folds",
    "bluffs when the others seem weak",
    "folds unless the cards are good",
    "raises often to frighten the others",
    "waits, watches and calls",
)
WEIGHTS = {"checks": 4.0, "calls": 4.0, "folds": 2.0, "bets": 1.0, "raises": 1.0, "goes": 0.02}


@dataclass(frozen=True)
class Decision:
    """One choice of one player. Times in milliseconds, sizes in tokens.

    fields_changed: fields of the table's state that changed since the decision before
    recomputed:     tokens behind the first change since this player's last prompt: what a cache of
                    prefixes would have to compute; None for its first prompt
    ms:             from sending the change to the choice
    """

    hand: int
    player: str
    options: tuple[str, ...]
    choice: str
    score: float
    fields_changed: int
    blocks: int
    blocks_encoded: int
    cached_tokens: int
    encoded_tokens: int
    prefill_tokens: int
    recomputed: int | None
    ms: float

    @property
    def context_tokens(self) -> int:
        return self.cached_tokens + self.encoded_tokens + self.prefill_tokens

    @property
    def computed_tokens(self) -> int:
        return self.encoded_tokens + self.prefill_tokens


def warm_up(table: Table, rng: random.Random, num_lines: int) -> None:
    """Play by dice until the history has ``num_lines`` lines."""
    while sum(map(len, table.history.values())) < num_lines:
        actions = table.actions()
        table.play(rng.choices(actions, [WEIGHTS[a.told.split()[0]] for a in actions])[0])


class Match:
    """A table in a runtime: what happens at it is patched into a world that all players see."""

    def __init__(
        self, runtime: Runtime, table: Table, now_s: Callable[[], float] = time.perf_counter
    ) -> None:
        self.table = table
        self._now_s = now_s
        self._state = table.state()
        self.world = runtime.world(WORLD, self._state, partition=RULES)
        self.agents = {
            name: self._agent(runtime, name, style)
            for name, style in zip(table.names, STYLES * len(table.names), strict=False)
        }
        self._prompts: dict[str, list[tuple[str, int]]] = {}

    def _agent(self, runtime: Runtime, name: str, style: str) -> Agent:
        return runtime.agent(
            name,
            world=self.world,
            profile=f"{name} is a poker player who {style}.",
            sees=["/table", "/players", "/history", f"/hands/{name}"],
        )

    def warm(self) -> None:
        """Have everything encoded that does not change; wait for it."""
        for waiter in [agent.warm() for agent in self.agents.values()]:
            waiter.wait()

    def decisions(self) -> Iterator[Decision]:
        """One decision after another, for ever."""
        while True:
            yield self.decide()

    def decide(self) -> Decision:
        """Let the player to act choose one of its legal actions, in one forward pass; play it."""
        table = self.table
        name, hand, actions = table.to_act, table.num_hands, table.actions()
        options = tuple(action.text for action in actions)
        event = f"It is your turn, {name}, with {table.to_call} to call. What do you do?"
        agent, after = self.agents[name], table.state()
        patch = difference(self._state, after)
        self._state = after
        start_s = self._now_s()
        self.world.patch(patch)
        reply = agent.choose("Dealer", event, options, normalize=True, remember=False)
        answer = reply.wait()
        ms = (self._now_s() - start_s) * 1e3
        assert answer.choice is not None
        usage = answer.usage
        recomputed = self._recomputed(name, event)
        table.play(actions[answer.choice.index])
        return Decision(
            hand=hand,
            player=name,
            options=options,
            choice=answer.choice.option,
            score=answer.choice.scores[answer.choice.index],
            fields_changed=len(patch),
            blocks=usage.blocks,
            blocks_encoded=usage.blocks_encoded,
            cached_tokens=usage.cached_tokens,
            encoded_tokens=usage.encoded_tokens,
            prefill_tokens=usage.prefill_tokens,
            recomputed=recomputed,
            ms=ms,
        )

    def _recomputed(self, name: str, event: str) -> int | None:
        shown: list[Any] = self.agents[name].inspect(event, speaker="Dealer")
        rows = [(str(row["text"]), int(row["tokens"])) for row in shown]
        before, self._prompts[name] = self._prompts.get(name), rows
        if before is None:
            return None
        pairs = enumerate(zip(before, rows, strict=False))
        same = next((i for i, (old, new) in pairs if old != new), len(rows))
        return sum(num_tokens for _, num_tokens in rows[same:])

"""A small house as facts, and a companion that reads its answers off the world state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonpatch

from game_agent.client import Answer
from game_agent_demos.questions import questions
from game_agent_demos.state import Entity, Fact

KINDS = {
    "P": "P",
    "I": "I",
    "kitchen": "r",
    "pantry": "r",
    "hallway": "r",
    "wooden door": "d",
    "chest drawer": "c",
    "table": "s",
    "old key": "k",
    "apple": "f",
    "milk": "o",
}


def fact(predicate: str, *names: str) -> Fact:
    return Fact(predicate, tuple(Entity(name, KINDS[name]) for name in names))


HOUSE = frozenset(
    {
        fact("at", "P", "kitchen"),
        fact("north_of", "pantry", "kitchen"),
        fact("south_of", "kitchen", "pantry"),
        fact("east_of", "hallway", "kitchen"),
        fact("west_of", "kitchen", "hallway"),
        fact("free", "kitchen", "hallway"),
        fact("link", "kitchen", "wooden door", "pantry"),
        fact("link", "pantry", "wooden door", "kitchen"),
        fact("locked", "wooden door"),
        fact("at", "chest drawer", "hallway"),
        fact("closed", "chest drawer"),
        fact("match", "old key", "wooden door"),
        fact("at", "table", "kitchen"),
        fact("in", "old key", "chest drawer"),
        fact("on", "apple", "table"),
        fact("edible", "apple"),
        fact("in", "milk", "I"),
    }
)


@dataclass
class OracleClient:
    """Stands in for a client: keeps a world's state and answers in the words of the truth."""

    lies: Mapping[int, str] = field(default_factory=dict)
    """What it answers instead, by tick."""
    state: dict[str, Any] = field(default_factory=dict)
    sent: list[list[dict[str, Any]]] = field(default_factory=list)

    def world_put(self, world: str, state: Mapping[str, Any]) -> dict[str, Any]:
        self.state = dict(state)
        return {"seq": 0, "blocks": 5}

    def agent_put(self, agent: str, **fields: object) -> None:
        assert fields["sees"] == [""]

    def warm(self, agent: str) -> None:
        assert self.state

    def tick(
        self,
        world: str,
        tick: int,
        *,
        patch: list[dict[str, Any]],
        asks: Sequence[Mapping[str, Any]],
    ) -> OracleTick:
        self.sent.append(patch)
        self.state = jsonpatch.apply_patch(self.state, patch)
        [ask] = asks
        true = {
            q.text: " and ".join(f"the {name}" for name in q.expected)
            for q in questions(self.state)
        }
        text = self.lies.get(tick, true.get(ask["event"], "I do not know."))
        return OracleTick({"blocks_changed": len(patch)}, [OracleStream(text)])


@dataclass(frozen=True)
class OracleTick:
    reply: dict[str, Any]
    asks: list[OracleStream]


@dataclass(frozen=True)
class OracleStream:
    text: str

    def __iter__(self) -> Iterator[str]:
        yield from self.text.split(" ")

    def result(self) -> Answer:
        usage = {"blocks": 6, "cached_tokens": 90, "encoded_tokens": 8, "prefill_tokens": 2}
        return Answer(self.text, 1, "stop", usage)

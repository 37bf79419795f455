"""A scene while it is being made up: its state, the facts that it tells, and its names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from game_agent.training.names import Names, Split
from game_agent.training.scene import ONE_FACT, Fact

T = TypeVar("T")


@dataclass
class Draft:
    """What the section makers write into.

    state:  the world, as a game would give it
    facts:  by (kind, subject); one that is told twice with another answer must not be added
    lore, turns, events:  texts that become blocks of their own, in that order
    last_asked:  the subject of the last turn, if it was a question
    """

    rng: random.Random
    names: Names
    state: dict[str, Any] = field(default_factory=dict)
    facts: dict[tuple[str, str], Fact] = field(default_factory=dict)
    lore: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    last_asked: str = ""
    me: str = ""
    manner: str = "plain"

    @staticmethod
    def create(rng: random.Random, split: Split) -> Draft:
        return Draft(rng, Names(rng, split))

    def tell(self, kind: str, subject: str, answer: str, skill: str = ONE_FACT) -> None:
        """Add a fact; the first one of a kind about a subject counts."""
        self.facts.setdefault((kind, subject), Fact(kind, subject, answer, skill))

    def tell_anew(self, kind: str, subject: str, answer: str, skill: str) -> None:
        """Add a fact in the place of one of the kind about the subject."""
        self.facts[kind, subject] = Fact(kind, subject, answer, skill)

    def pick(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def number(self) -> int:
        """Mostly two digits, as prices and hit points are."""
        draw = self.rng.random()
        low, high = (1, 9) if draw < 0.25 else (10, 99) if draw < 0.75 else (100, 999)
        return self.rng.randint(low, high)

    def someone(self) -> str:
        """A person of this scene, or a new one."""
        if self.people and self.chance(0.4):
            return self.pick(self.people)
        return self.names.person()

    def somewhere(self) -> str:
        """A place of this scene, or a new one."""
        if self.places and self.chance(0.6):
            return self.pick(self.places)
        place = self.names.place()
        self.places.append(place)
        return place

    def section(self, *titles: str) -> dict[str, Any]:
        """The part of the state with one of these titles, made if there is none."""
        present = [title for title in titles if title in self.state]
        section: dict[str, Any] = self.state.setdefault(
            present[0] if present else self.pick(titles), {}
        )
        return section

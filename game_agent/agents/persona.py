"""What a game made an agent of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from game_agent.agents.actions import Action
from game_agent.agents.cards import Card
from game_agent.agents.character import Character
from game_agent.agents.pointer import Json
from game_agent.errors import InvalidInput


@dataclass(frozen=True)
class Persona:
    """A profile or a Character Card, instructions, and actions. ``name`` is the agent's.

    Raises InvalidInput if there is neither or both, and what ``Character`` raises.
    """

    name: str
    profile: str | Mapping[str, Json] | None = None
    card: Card | None = None
    instructions: str = ""
    actions: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        if (self.profile is None) == (self.card is None):
            raise InvalidInput("an agent needs either a profile or a card", where="profile")
        # Made here, so that an error in it is found with the others.
        _ = self.character

    @cached_property
    def character(self) -> Character:
        """Who the model is told that it is; a card brings its own name."""
        if self.card is not None:
            return self.card.character(self.instructions)
        return Character(self.name, "" if self.profile is None else self.profile, self.instructions)

"""Who an agent is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from game_agent.agents.patch import Json, check_json
from game_agent.agents.rendering import collapse, flatten, items_text, sentence
from game_agent.errors import InvalidInput


@dataclass(frozen=True)
class Character:
    """A name, a profile (text, or fields such as ``{"trade": "innkeeper"}``), and instructions.

    Raises InvalidInput if the name is blank or a value is not plain JSON.
    """

    name: str
    profile: str | Mapping[str, Json]
    instructions: str = ""

    def __post_init__(self) -> None:
        check_json(self.name, "name")
        if not collapse(self.name):
            raise InvalidInput("a character needs a name", where="name")
        check_json(self.profile, "profile")
        if not isinstance(self.profile, str | Mapping):
            raise InvalidInput("a profile is a text or an object", where="profile")
        check_json(self.instructions, "instructions")

    @cached_property
    def text(self) -> str:
        """The text of its block: ``You are Mira. trade: innkeeper; mood: calm. Be brief.``"""
        if isinstance(self.profile, str):
            profile = _paragraphs(self.profile)
        else:
            profile = sentence(items_text(flatten(self.profile))) if self.profile else ""
        texts = (f"You are {collapse(self.name)}.", profile, _paragraphs(self.instructions))
        return " ".join(text for text in texts if text)


def _paragraphs(text: str) -> str:
    """White space collapsed within lines; blank lines dropped."""
    return "\n".join(line for line in map(collapse, text.splitlines()) if line)

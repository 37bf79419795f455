"""Who an agent is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from game_agent.agents.limits import (
    MAX_CHARACTER_CHARS,
    MAX_NAME_CHARS,
    check_length,
    check_text,
)
from game_agent.agents.macros import fill
from game_agent.agents.patch import check_json
from game_agent.agents.pointer import Json
from game_agent.agents.rendering import collapse, flatten, items_text, sentence
from game_agent.errors import InvalidInput

DEFAULT_USER = "Player"


@dataclass(frozen=True)
class Character:
    """A name, a profile (text, or fields such as ``{"trade": "innkeeper"}``), and instructions.

    examples: short dialogues that show how the character speaks, each a block of its own
    user:     whom ``{{user}}`` in lore and cards means

    Raises InvalidInput if the name is blank or a value is not plain JSON, TooLarge above a limit.
    """

    name: str
    profile: str | Mapping[str, Json]
    instructions: str = ""
    examples: tuple[str, ...] = ()
    user: str = DEFAULT_USER

    def __post_init__(self) -> None:
        check_json(self.name, "name")
        if not collapse(self.name):
            raise InvalidInput("a character needs a name", where="name")
        check_json(self.profile, "profile")
        if not isinstance(self.profile, str | Mapping):
            raise InvalidInput("a profile is a text or an object", where="profile")
        check_json(self.instructions, "instructions")
        check_json(list(self.examples), "examples")
        check_json(self.user, "user")
        check_text(self.name, "name", MAX_NAME_CHARS, "a name")
        texts = (self.text, *self.examples)
        what = "the character, with its instructions and examples,"
        check_length(sum(map(len, texts)), "profile", MAX_CHARACTER_CHARS, what)

    @cached_property
    def text(self) -> str:
        """The text of its block: ``You are Mira. trade: innkeeper; mood: calm. Be brief.``"""
        if isinstance(self.profile, str):
            profile = paragraphs(self.profile)
        else:
            profile = sentence(items_text(flatten(self.profile))) if self.profile else ""
        texts = (f"You are {collapse(self.name)}.", profile, paragraphs(self.instructions))
        return " ".join(text for text in texts if text)

    def fill(self, text: str) -> str:
        """``text`` with its macros replaced, ``{{char}}`` and ``{{user}}`` by the names."""
        return fill(text, collapse(self.name), collapse(self.user))


def paragraphs(text: str) -> str:
    """White space collapsed within lines; blank lines dropped."""
    return "\n".join(line for line in map(collapse, text.splitlines()) if line)

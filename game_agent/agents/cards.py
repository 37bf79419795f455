"""Character Cards, version 2 and 3: what characters are exchanged as.

Specifications: github.com/malfoyslastname/character-card-spec-v2 and
github.com/kwaroran/character-card-spec-v3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from game_agent.agents.character import DEFAULT_USER, Character, paragraphs
from game_agent.agents.lore import Lorebook
from game_agent.agents.macros import fill
from game_agent.agents.patch import check_json
from game_agent.agents.pointer import Json
from game_agent.agents.rendering import collapse
from game_agent.errors import InvalidInput

SPECS = ("chara_card_v2", "chara_card_v3")
_TEXTS = (
    "name",
    "nickname",
    "description",
    "personality",
    "scenario",
    "system_prompt",
    "post_history_instructions",
    "first_mes",
    "mes_example",
)
_ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE)
_START = re.compile(r"<START>", re.IGNORECASE)


@dataclass(frozen=True)
class Card:
    """A card as it is: all of its fields, also those that nothing here knows.

    value:  the JSON object, with ``spec`` and ``data``
    image:  the PNG that it came in
    assets: files of the CHARX archive that it came in, by their path

    Raises InvalidInput, with a JSON Pointer into ``value``, for what is no card.
    """

    value: Mapping[str, Json]
    image: bytes | None = field(default=None, repr=False)
    assets: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_json(self.value)
        if not isinstance(self.value, Mapping) or self.value.get("spec") not in SPECS:
            message = f'this is no Character Card: its "spec" must be {" or ".join(SPECS)}'
            raise InvalidInput(message, where="/spec")
        if not isinstance(self.value.get("data"), Mapping):
            raise InvalidInput('the "data" of a card is an object', where="/data")
        for name in _TEXTS:
            if not isinstance(self._data.get(name), str | None):
                raise InvalidInput(f'"{name}" of a card is a text', where=f"/data/{name}")
        if not collapse(self._text("name")):
            raise InvalidInput("a card needs a name", where="/data/name")
        if not isinstance(self._data.get("alternate_greetings"), list | None):
            message = '"alternate_greetings" of a card is an array of texts'
            raise InvalidInput(message, where="/data/alternate_greetings")
        # Made here, so that an error in it is found with the others.
        _ = self.lorebook

    @property
    def name(self) -> str:
        """Whom ``{{char}}`` means: the nickname if there is one."""
        return collapse(self._text("nickname")) or collapse(self._text("name"))

    def character(self, instructions: str = "", user: str = DEFAULT_USER) -> Character:
        """Who the card describes. Version 3's text discourages some fields; those filled are used.

        ``instructions`` stand where the card says ``{{original}}``, or after its own.
        """
        description, personality, scenario = (
            self._filled(name, user) for name in ("description", "personality", "scenario")
        )
        profile = [
            description,
            f"Personality: {personality}" if personality else "",
            f"Scenario: {scenario}" if scenario else "",
        ]
        own = "\n".join(
            self._filled(name, user) for name in ("system_prompt", "post_history_instructions")
        )
        if _ORIGINAL.search(own):
            instructions = _ORIGINAL.sub(lambda _: instructions, own)
        else:
            instructions = f"{own}\n{instructions}"
        examples = map(paragraphs, _START.split(self._filled("mes_example", user)))
        return Character(
            self.name,
            "\n".join(filter(None, profile)),
            instructions.strip(),
            tuple(filter(None, examples)),
            user,
        )

    def greetings(self, user: str = DEFAULT_USER) -> tuple[str, ...]:
        """What the character may say first: the first message, then the alternatives."""
        others = self._data.get("alternate_greetings") or []
        assert isinstance(others, list)
        texts = [self._text("first_mes"), *(text for text in others if isinstance(text, str))]
        return tuple(fill(text, self.name, user) for text in texts if text)

    @cached_property
    def lorebook(self) -> Lorebook | None:
        """The card's own lorebook."""
        book = self._data.get("character_book")
        return None if book is None else Lorebook(book, "/data/character_book")

    def to_json(self) -> bytes:
        """The card as a JSON file."""
        return json.dumps(self.value, ensure_ascii=False).encode()

    @property
    def _data(self) -> Mapping[str, Json]:
        data = self.value.get("data")
        return data if isinstance(data, Mapping) else {}

    def _text(self, name: str) -> str:
        value = self._data.get(name)
        return value if isinstance(value, str) else ""

    def _filled(self, name: str, user: str) -> str:
        return fill(self._text(name), self.name, collapse(user)).strip()

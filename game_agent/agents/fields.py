"""The fields of objects that come from strangers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from game_agent.agents.patch import check_json
from game_agent.agents.pointer import Json
from game_agent.errors import InvalidInput


def known_fields(value: object, names: Collection[str], what: str, where: str) -> Mapping[str, Any]:
    """``value`` as the object that ``what`` (``a rule``) is; it has no other fields than ``names``.

    Raises InvalidInput.
    """
    check_json(value, where)
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{what} is an object", where=where)
    for name in value.keys() - names:
        raise InvalidInput(f'{what} has no "{name}"', where=f"{where}/{name}")
    return value


class Fields:
    """Reads one field after another; each raises InvalidInput for another type."""

    def __init__(self, value: Mapping[str, Json], where: str) -> None:
        self._value = value
        self._where = where

    def text(self, name: str) -> str:
        value = self._value.get(name)
        if not isinstance(value, str | None):
            raise self._error(name, "a text")
        return value or ""

    def flag(self, name: str, default: bool) -> bool:
        value = self._value.get(name)
        if not isinstance(value, bool | None):
            raise self._error(name, "true or false")
        return default if value is None else value

    def number(self, name: str, default: float) -> float:
        value = self._value.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise self._error(name, "a number")
        return default if value is None else value

    def sequence(self, name: str) -> Sequence[Json]:
        value = self._value.get(name)
        if not isinstance(value, list):
            raise self._error(name, "an array")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of texts, or one text with commas; nothing is none."""
        value = self._value.get(name)
        if value is None:
            return ()
        texts = value.split(",") if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._error(name, "an array of texts")
        return tuple(text for text in texts if isinstance(text, str))

    def _error(self, name: str, kind: str) -> InvalidInput:
        return InvalidInput(f'"{name}" must be {kind}', where=f"{self._where}/{name}")

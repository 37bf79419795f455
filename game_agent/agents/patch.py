"""JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396) on values that are never mutated.

A patched state shares every untouched subtree with the state it came from (the same objects), so
that whoever keeps something per subtree finds by identity what a patch left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from game_agent.errors import InvalidInput

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"

MAX_DEPTH = 64


def check_json(value: object, where: str = "") -> None:
    """Raises InvalidInput, with the JSON Pointer of the culprit, if ``value`` is not plain JSON.

    Plain means: string keys, finite numbers, text that UTF-8 can hold, dicts, lists, and at most
    MAX_DEPTH levels of them.
    """
    _check(value, where, MAX_DEPTH)


def _check(value: object, where: str, depth: int) -> None:
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{value} is not a JSON number; use a finite one", where=where)
    elif isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, dict | list):
        if depth == 0:
            raise InvalidInput(f"the value is nested deeper than {MAX_DEPTH} levels", where=where)
        _check_members(value, where, depth - 1)
    else:
        raise InvalidInput(f"a {type(value).__name__} is not a JSON value", where=where)


def _check_members(value: dict[object, object] | list[object], where: str, depth: int) -> None:
    if isinstance(value, list):
        for index, element in enumerate(value):
            _check(element, f"{where}/{index}", depth)
        return
    for key, member in value.items():
        if not isinstance(key, str):
            raise InvalidInput(f"the key {key!r} is not a string", where=where)
        _check_text(key, where)
        _check(member, join_pointer(where, key), depth)


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "the text holds half of a surrogate pair, which UTF-8 cannot hold"
        raise InvalidInput(message, where=where) from error


def parse_pointer(pointer: str, where: str = "") -> tuple[str, ...]:
    """The reference tokens of a JSON Pointer (RFC 6901). Raises InvalidInput."""
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        message = f'the JSON Pointer "{pointer}" must be empty or begin with "/"'
        raise InvalidInput(message, where=where)
    if "~" in pointer.replace("~0", "").replace("~1", ""):
        message = f'"~" must be followed by 0 or 1 in the JSON Pointer "{pointer}"'
        raise InvalidInput(message, where=where)
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def join_pointer(pointer: str, token: str | int) -> str:
    """The pointer of the member ``token`` of what ``pointer`` names."""
    return f"{pointer}/{str(token).replace('~', '~0').replace('/', '~1')}"

"""JSON Pointers (RFC 6901), and what they name in values that are never mutated.

``where``, in all functions, is the pointer of the culprit for an InvalidInput.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from game_agent.errors import InvalidInput

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
Path: TypeAlias = tuple[str, ...]  # the reference tokens of a JSON Pointer


def parse_pointer(pointer: Json, where: str = "") -> Path:
    """The reference tokens of a JSON Pointer (RFC 6901). Raises InvalidInput."""
    if not isinstance(pointer, str):
        raise InvalidInput("a JSON Pointer is a text", where=where)
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


def get_value(value: Json, path: Path, where: str) -> Json:
    """What ``path`` names."""
    for token in path:
        value = _member(value, token, where)
    return value


def _member(value: Json, token: str, where: str) -> Json:
    if isinstance(value, Mapping):
        if token not in value:
            raise InvalidInput(f'there is no member "{token}"', where=where)
        return value[token]
    return _list(value, token, where)[_index(value, token, where)]


def edited(value: Json, path: Path, edit: Callable[[Json], Json], where: str) -> Json:
    """``value`` with ``edit`` applied to what ``path`` names; only what lies on it is copied."""
    if not path:
        return edit(value)
    member = edited(_member(value, path[0], where), path[1:], edit, where)
    if isinstance(value, Mapping):
        return {**value, path[0]: member}
    elements = _list(value, path[0], where)
    elements[_index(value, path[0], where)] = member
    return elements


def inserted(state: Json, path: Path, value: Json, where: str) -> Json:
    """``state`` with a new member or element, as RFC 6902's ``add`` puts it there."""
    if not path:
        return value
    token = path[-1]

    def insert(parent: Json) -> Json:
        if isinstance(parent, Mapping):
            return {**parent, token: value}
        elements = _list(parent, token, where)
        index = len(elements) if token == "-" else _index(parent, token, where, may_be_end=True)
        elements.insert(index, value)
        return elements

    return edited(state, path[:-1], insert, where)


def deleted(state: Json, path: Path, where: str) -> Json:
    """``state`` without what ``path`` names, which is not the whole of it."""
    token = path[-1]

    def delete(parent: Json) -> Json:
        _member(parent, token, where)
        if isinstance(parent, Mapping):
            return {key: member for key, member in parent.items() if key != token}
        elements = _list(parent, token, where)
        del elements[_index(parent, token, where)]
        return elements

    return edited(state, path[:-1], delete, where)


def _list(value: Json, token: str, where: str) -> list[Json]:
    """A copy of an array, which ``token`` is to index."""
    if isinstance(value, list | tuple):
        return list(value)
    raise InvalidInput(f'"{token}" names a member of something that has none', where=where)


def _index(value: Json, token: str, where: str, *, may_be_end: bool = False) -> int:
    is_number = token.isascii() and token.isdigit() and (token == "0" or token[0] != "0")
    num_elements = len(value) if isinstance(value, list | tuple) else 0
    # A number of more digits is no index of anything, and int() refuses very long ones.
    if is_number and len(token) <= 12 and int(token) < num_elements + may_be_end:
        return int(token)
    raise InvalidInput(f'"{token}" is no index of an array of {num_elements} elements', where=where)

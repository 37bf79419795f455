"""JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396) on values that are never mutated.

A patched state shares every untouched subtree with the state it came from (the same objects), so
that whoever keeps something per subtree finds by identity what a patch left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from game_agent.agents.limits import check_text
from game_agent.agents.pointer import (
    Json,
    Path,
    deleted,
    edited,
    get_value,
    inserted,
    join_pointer,
    parse_pointer,
)
from game_agent.errors import InvalidInput, TooLarge

MAX_DEPTH = 64
MAX_COPIED = 100_000


def check_json(value: object, where: str = "") -> None:
    """Raises InvalidInput, with the JSON Pointer of the culprit, if ``value`` is not plain JSON.

    Plain means: string keys, finite numbers, text that UTF-8 can hold, dicts, lists, and at most
    MAX_DEPTH levels of them. Raises TooLarge for a text above MAX_TEXT_CHARS.
    """
    _check(value, where, MAX_DEPTH)


def _check(value: object, where: str, depth: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidInput("an integer must fit into 64 bits", where=where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"{value} is not a JSON number; use a finite one", where=where)
    elif isinstance(value, str):
        check_text(value, where)
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
        check_text(key, where, what="a key")
        _check(member, join_pointer(where, key), depth)


def apply_patch(state: Json, ops: Sequence[Json]) -> Mapping[str, Json]:
    """``state`` after the operations of a JSON Patch, all or none of them.

    Both must pass ``check_json``, and so will the result, of which the values in ``ops`` become
    part. Raises InvalidInput, with ``where`` as the pointer of the culprit in ``ops``, for an
    operation that is malformed or does not apply, or if the result is not an object; TooLarge if
    the operations copy more than MAX_COPIED values.
    """
    if not isinstance(ops, list | tuple):
        raise InvalidInput("a JSON Patch is an array of operations")
    patcher = _Patcher(state)
    for index, op in enumerate(ops):
        patcher.apply(op, f"/{index}")
    return _object(patcher.state)


def merge_patch(state: Json, patch: Json) -> Mapping[str, Json]:
    """``state`` after a JSON Merge Patch, which must pass ``check_json``: nulls remove members.

    Raises InvalidInput if the result is not an object.
    """
    return _object(_merge(state, patch))


def _merge(target: Json, patch: Json) -> Json:
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _object(state: Json) -> Mapping[str, Json]:
    if not isinstance(state, Mapping):
        raise InvalidInput("the patch would replace the whole state by something not an object")
    return state


class _Patcher:
    """Applies operations one after another. In all methods ``where`` is the operation's pointer."""

    def __init__(self, state: Json) -> None:
        self.state = state
        self._num_copied = 0

    def apply(self, op: Json, where: str) -> None:
        if not isinstance(op, Mapping):
            raise InvalidInput("an operation of a JSON Patch is an object", where=where)
        match op.get("op"):
            case "add":
                self._insert(_pointer(op, "path", where), _value(op, where), where)
            case "remove":
                self._remove(_pointer(op, "path", where), f"{where}/path")
            case "replace":
                self._replace(_pointer(op, "path", where), _value(op, where), f"{where}/path")
            case "move":
                self._move(_pointer(op, "from", where), _pointer(op, "path", where), where)
            case "copy":
                self._copy(_pointer(op, "from", where), _pointer(op, "path", where), where)
            case "test":
                self._test(_pointer(op, "path", where), _value(op, where), f"{where}/path")
            case _:
                message = '"op" must be add, remove, replace, move, copy or test'
                raise InvalidInput(message, where=f"{where}/op")

    def _insert(self, path: Path, value: Json, where: str) -> None:
        _check_height(path, value, f"{where}/path")
        self.state = inserted(self.state, path, value, f"{where}/path")

    def _remove(self, path: Path, where: str) -> None:
        if not path:
            raise InvalidInput("the whole state cannot be removed", where=where)
        self.state = deleted(self.state, path, where)

    def _replace(self, path: Path, value: Json, where: str) -> None:
        _check_height(path, value, where)
        self.state = edited(self.state, path, lambda _: value, where)

    def _move(self, source: Path, path: Path, where: str) -> None:
        value = get_value(self.state, source, f"{where}/from")
        if source == path:
            return
        if source == path[: len(source)]:
            raise InvalidInput("a value cannot be moved into itself", where=f"{where}/path")
        self.state = deleted(self.state, source, f"{where}/from")
        self._insert(path, value, where)

    def _copy(self, source: Path, path: Path, where: str) -> None:
        value = get_value(self.state, source, f"{where}/from")
        # Copies are shared and cost nothing here, but whoever walks the result pays for each:
        # thirty operations that each double the state would be a billion values.
        self._num_copied += _num_values(value, MAX_COPIED)
        if self._num_copied > MAX_COPIED:
            message = f"the patch copies more than {MAX_COPIED} values; send them in parts"
            raise TooLarge(message, where=f"{where}/from")
        self._insert(path, value, where)

    def _test(self, path: Path, value: Json, where: str) -> None:
        if not _equal(get_value(self.state, path, where), value):
            raise InvalidInput("the test failed: the state has another value", where=where)


def _num_values(value: Json, limit: int) -> int:
    """How many values ``value`` is made of; counting ends above ``limit``."""
    todo, count = [value], 0
    while todo and count <= limit:
        value = todo.pop()
        count += 1
        if isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, list | tuple):
            todo += value
    return count


def _check_height(path: Path, value: Json, where: str) -> None:
    if len(path) + _height(value) > MAX_DEPTH:
        message = f"the state would be nested deeper than {MAX_DEPTH} levels"
        raise InvalidInput(message, where=where)


def _height(value: Json) -> int:
    if isinstance(value, Mapping):
        return 1 + max(map(_height, value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max(map(_height, value), default=0)
    return 0


def _pointer(op: Mapping[str, Json], name: str, where: str) -> tuple[str, ...]:
    if name not in op:
        raise InvalidInput(f'"{op["op"]}" needs "{name}"', where=f"{where}/{name}")
    return parse_pointer(op[name], f"{where}/{name}")


def _value(op: Mapping[str, Json], where: str) -> Json:
    if "value" not in op:
        raise InvalidInput(f'"{op["op"]}" needs "value"', where=f"{where}/value")
    return op["value"]


def _equal(a: Json, b: Json) -> bool:
    """Equality of RFC 6902, section 4.6: 1 equals 1.0, and true is no number."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(member, b[key]) for key, member in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b

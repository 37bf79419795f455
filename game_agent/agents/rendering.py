"""How JSON reads as text: ``rooms free: 3; menu: ale, stew; stock / nails: none``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from game_agent.agents.pointer import Json

ROOT_HEADER = "world"
NOTHING = "none"
MAX_NAME_CHARS = 60
NAME_FIELDS = ("id", "name")

Item = tuple[str, str]  # a path below the header ("" for the header's own value), a value's text


def collapse(text: str) -> str:
    """``text`` with each run of white space as one space, so that it cannot fake a new block."""
    return " ".join(text.split())


@lru_cache(maxsize=65536)
def key_text(key: str) -> str:
    """A key as people write it: ``rooms_free`` is "rooms free"."""
    return collapse(key.replace("_", " ")) or "-"


def scalar_text(value: Json) -> str:
    """A string, number, boolean or null as text; an empty string is "none"."""
    if isinstance(value, str):
        return collapse(value) or NOTHING
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value)


def is_container(value: Json) -> bool:
    return isinstance(value, Mapping | list | tuple)


def name_field(element: Json, hidden: Collection[str] = ()) -> str | None:
    """The field that names an element of an array: text before numbers, ``id`` before ``name``.

    ``hidden`` fields may not: the name stands in the header of all of the element's parts.
    """
    if not isinstance(element, Mapping):
        return None
    names = [key for key in NAME_FIELDS if key in element and key not in hidden]
    for key in names:
        name = element[key]
        if isinstance(name, str) and 0 < len(collapse(name)) <= MAX_NAME_CHARS:
            return key
    for key in names:
        name = element[key]
        if isinstance(name, int | float) and not isinstance(name, bool):
            return key
    return None


def members(
    value: Json, skipped: str | None = None, hidden: Mapping[str, Collection[str]] | None = None
) -> Iterator[tuple[str, str | None, str | None, Json]]:
    """The members of a container: (reference token, label, name field, value).

    The label is a key, an element's name, or None; a name field is what gave an element its label.
    ``skipped`` is the key that named ``value`` itself; ``hidden`` has, by token, the fields that
    may not name a member.
    """
    if isinstance(value, Mapping):
        for key, member in value.items():
            if key != skipped:
                yield key, key_text(key), None, member
    elif isinstance(value, list | tuple):
        for index, element in enumerate(value):
            token = str(index)
            field = name_field(element, (hidden or {}).get(token, ()))
            if field is not None and isinstance(element, Mapping):
                yield token, scalar_text(element[field]), field, element
            else:
                yield token, None, None, element


def is_leaf(value: Json, skipped: str | None = None) -> bool:
    """Whether ``value`` is one text: a scalar, a list of scalars, or an object without members."""
    if isinstance(value, Mapping):
        return all(key == skipped for key in value)
    if isinstance(value, list | tuple):
        return not any(map(is_container, value))
    return True


def leaf_texts(value: Json) -> list[str]:
    """The text of a leaf, which is ", ".join(leaf_texts(value)), by elements."""
    if isinstance(value, Mapping):
        return [NOTHING]
    if isinstance(value, list | tuple):
        return [scalar_text(element) for element in value] or [NOTHING]
    return [scalar_text(value)]


def labelled(label: str | None, items: Iterable[Item]) -> tuple[Item, ...]:
    """Items of a member, relative to its parent."""
    if label is None:
        return tuple(items)
    return tuple((f"{label} / {path}" if path else label, text) for path, text in items)


def flatten(value: Json, skipped: str | None = None) -> tuple[Item, ...]:
    """All of ``value`` as items, however long."""
    if is_leaf(value, skipped):
        return (("", ", ".join(leaf_texts(value))),)
    return tuple(
        item
        for _, label, field, member in members(value, skipped)
        for item in labelled(label, flatten(member, field))
    )


def items_text(items: Iterable[Item]) -> str:
    """Items as they stand in a block, without the full stop."""
    return "; ".join(f"{path}: {text}" if path else text for path, text in items)


def sentence(text: str) -> str:
    """``text`` with a full stop, unless it ends a sentence already."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def header(words: Sequence[str]) -> str:
    """The path that a block begins with: ``places / inn``; "world" for the root."""
    return " / ".join(words) or ROOT_HEADER


def render(words: Sequence[str], items: Iterable[Item]) -> str:
    """The text of a block: ``places / inn: rooms free: 3; keeper: Mira.``"""
    return f"{header(words)}: {sentence(items_text(items))}"

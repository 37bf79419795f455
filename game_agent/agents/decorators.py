"""Decorators of lore entries: lines such as ``@@exclude_keys war`` (Character Card V3).

Those that say when an entry is told are followed. What is not known here gives way to its fallback
(``@@@…`` below it), as the specification says, or is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from game_agent.agents.rendering import collapse

MAX_FALLBACKS = 16


@dataclass(frozen=True)
class Decorators:
    """What the decorators of an entry say, and the content without them."""

    content: str
    activate: bool = False
    """It is told in any case."""
    dont_activate: bool = False
    """It is never told, unless ``activate`` says so."""
    additional_keys: tuple[str, ...] = ()
    """If not empty, one of them must be mentioned too."""
    exclude_keys: tuple[str, ...] = ()
    """If one of them is mentioned, it is not told."""
    scan_depth: int | None = None
    """How many messages are looked at for its keys, whatever the book says."""
    ignore_on_max_context: bool = False
    """It gives way first when tokens are short."""


_FLAGS = ("activate", "dont_activate", "ignore_on_max_context")
_LISTS = ("additional_keys", "exclude_keys")


def read_decorators(content: str) -> Decorators:
    """The decorators of an entry's content; of several of one name the first counts."""
    lines = content.splitlines()
    found: dict[str, bool | int | tuple[str, ...]] = {}
    for names in _groups(lines):
        for name, text in names[:MAX_FALLBACKS]:
            value = _value(name, text)
            if value is not None:
                found.setdefault(name, value)
                break
    kept = (collapse(line) for line in lines if not line.startswith("@@"))
    return Decorators("\n".join(line for line in kept if line), **found)  # type: ignore[arg-type]


def _groups(lines: list[str]) -> Iterator[list[tuple[str, str]]]:
    """(name, value) of each decorator with those of its fallbacks."""
    group: list[tuple[str, str]] = []
    for line in lines:
        is_fallback = line.startswith("@@@")
        if group and not is_fallback:
            yield group
            group = []
        if line.startswith("@@") and (group or not is_fallback):
            name, _, value = line.lstrip("@").strip().partition(" ")
            group.append((name, value.strip()))
    if group:
        yield group


def _value(name: str, text: str) -> bool | int | tuple[str, ...] | None:
    """What a decorator says; None if it is unknown or its value makes no sense."""
    if name in _FLAGS:
        return True
    if name in _LISTS:
        return tuple(filter(None, map(str.strip, text.split(",")))) or None
    if name == "scan_depth" and text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    return None

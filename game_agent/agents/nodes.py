"""A value of a world in its place, rendered: what a partition is made of."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from game_agent.agents.cuts import MIN_CHARS
from game_agent.agents.pointer import Json
from game_agent.agents.rendering import Item, header, labelled, render
from game_agent.agents.rules import RuleTails
from game_agent.agents.sight import Tails

MAX_CHARS = 600  # no part is longer, unless its header alone nearly is


@dataclass(frozen=True)
class Part:
    """The text of one block."""

    path: str
    """JSON Pointer of the subtree that it was cut from; for a join, of the common parent."""
    text: str
    """For example ``places / inn: rooms free: 3; keeper: Mira.``"""
    paths: tuple[str, ...]
    """Pointers of what it renders: the members of a join, else ``path`` itself."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, as far as its texts depend on it. The defaults are the root's."""

    borders: Tails
    """Reference tokens from here to each border at (the empty tuple) or below this place."""
    parent: tuple[str, ...] = ()
    label: str | None = None
    """Its key, or its name in an array; None for the root and for nameless elements."""
    name_field: str | None = None
    """The member that gave the label, which is not rendered again."""
    rules: RuleTails = ()
    is_joined: bool = False
    """Whether it lies in a value that is never cut."""

    @property
    def words(self) -> tuple[str, ...]:
        return self.parent if self.label is None else (*self.parent, self.label)

    @property
    def room(self) -> int:
        """Characters that a part has for items, beside its header."""
        if self.is_joined:
            return sys.maxsize
        return max(MAX_CHARS - len(header(self.words)) - len(": ."), MIN_CHARS)

    @property
    def leaf_room(self) -> int:
        """Characters that a part has for the text of a leaf, which its parent's header precedes."""
        if self.is_joined:
            return sys.maxsize
        return max(MAX_CHARS - len(render(self.parent, [(self.label or "", "")])), MIN_CHARS)


@dataclass(frozen=True, slots=True)
class Node:
    """A value in its place, rendered."""

    value: Json
    place: Place
    pointer: str
    items: tuple[Item, ...] | None
    """All of it, relative to itself; None if too long for one part or a border is inside."""
    is_leaf: bool
    """A leaf is rendered under its parent's header: ``places / inn: rooms free: 3.``"""
    parts: tuple[Part, ...] = ()
    """It cut alone; empty if it is tiny, as then it is mostly its parent that renders it."""
    children: Mapping[str, Node] = field(default_factory=dict)

    @property
    def is_border(self) -> bool:
        return () in self.place.borders

    @property
    def labelled_items(self) -> tuple[Item, ...]:
        """``items`` relative to the parent."""
        return labelled(self.place.label, self.items or ())

    def own_parts(self) -> tuple[Part, ...]:
        return self.parts or (self.whole(),)

    def whole(self) -> Part:
        """All of it as one part."""
        if self.is_leaf:
            text = render(self.place.parent, self.labelled_items)
        else:
            text = render(self.place.words, self.items or ())
        return Part(self.pointer, text, (self.pointer,))

    def moved(self, pointer: str) -> Node:
        """The same texts at another pointer: an element of an array in which others came or went.

        The children keep their old pointers; they are moved in turn if they are ever reused.
        """
        if pointer == self.pointer:
            return self
        old = len(self.pointer)
        parts = tuple(
            Part(pointer + part.path[old:], part.text, tuple(pointer + p[old:] for p in part.paths))
            for part in self.parts
        )
        return replace(self, pointer=pointer, parts=parts)

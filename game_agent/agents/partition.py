"""Cuts a world state into parts: short texts that stand alone, one block of the prompt each.

Where a cut falls depends on names, not on values: siblings too small for a part of their own are
joined, and a hash of their names ranks the places where such a run may be cut. So a changed value
changes one part, and a new member one or two, wherever in the state it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from game_agent.agents.cuts import JOIN_CHARS, MIN_CHARS, cut_run, cut_texts, rank
from game_agent.agents.patch import Json, join_pointer, parse_pointer
from game_agent.agents.rendering import (
    Item,
    header,
    is_leaf,
    items_text,
    labelled,
    leaf_texts,
    members,
    render,
)

MAX_CHARS = 600  # no part is longer, unless its header alone nearly is

Tails = frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Part:
    """The text of one block."""

    path: str
    """JSON Pointer of the subtree that it was cut from; for a join, of the common parent."""
    text: str
    """For example ``places / inn: rooms free: 3; keeper: Mira.``"""
    paths: tuple[str, ...]
    """Pointers of what it renders: the members of a join, else ``path`` itself."""


@dataclass(frozen=True)
class Partition:
    """A state cut into parts, and what re-cutting its successor can reuse."""

    parts: tuple[Part, ...] = ()
    """In document order; a join stands where its first member does."""
    num_rendered: int = field(default=0, compare=False)
    """Values that were rendered for it, rather than taken from its predecessor."""
    root: _Node | None = field(default=None, repr=False, compare=False)


def partition(
    state: Mapping[str, Json], borders: Collection[str] = (), previous: Partition | None = None
) -> Partition:
    """Cuts ``state``, which must pass ``check_json`` and must not be changed afterwards.

    ``borders`` are JSON Pointers: what lies below one shares no part with what does not. A border
    that names nothing has no effect. ``previous`` only saves work: subtrees that are the same
    objects as in the state it was cut from are not rendered again. Raises InvalidInput if a border
    is no JSON Pointer.
    """
    if not state:
        return Partition()
    tails = frozenset(parse_pointer(border) for border in borders) - {()}
    cutter = _Cutter()
    root = cutter.node(state, _Place(tails), previous.root if previous else None)
    return Partition(root.own_parts(), cutter.num_rendered, root)


def visible(parts: Iterable[Part], sees: Collection[str]) -> tuple[Part, ...]:
    """The parts of which all lies at or below one of the pointers ``sees``, each once, in order."""
    seen = frozenset(sees)
    return tuple(part for part in parts if all(_is_below(path, seen) for path in part.paths))


def _is_below(path: str, pointers: frozenset[str]) -> bool:
    while path and path not in pointers:
        path = path.rpartition("/")[0]
    return path in pointers


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands, as far as its texts depend on it. The defaults are the root's."""

    borders: Tails
    """Reference tokens from here to each border at (the empty tuple) or below this place."""
    parent: tuple[str, ...] = ()
    label: str | None = None
    """Its key, or its name in an array; None for the root and for nameless elements."""
    name_field: str | None = None
    """The member that gave the label, which is not rendered again."""

    @property
    def words(self) -> tuple[str, ...]:
        return self.parent if self.label is None else (*self.parent, self.label)

    @property
    def room(self) -> int:
        """Characters that a part has for items, beside its header."""
        return max(MAX_CHARS - len(header(self.words)) - len(": ."), MIN_CHARS)


@dataclass(frozen=True, slots=True)
class _Node:
    """A value in its place, rendered."""

    value: Json
    place: _Place
    pointer: str
    items: tuple[Item, ...] | None
    """All of it, relative to its parent; None if too long for one part or a border is inside."""
    is_leaf: bool
    """A leaf is rendered under its parent's header: ``places / inn: rooms free: 3.``"""
    parts: tuple[Part, ...] = ()
    """It cut alone; empty if it is tiny, as then it is mostly its parent that renders it."""
    children: Mapping[str, _Node] = field(default_factory=dict)

    @property
    def is_border(self) -> bool:
        return () in self.place.borders

    def own_parts(self) -> tuple[Part, ...]:
        return self.parts or (self.whole(),)

    def whole(self) -> Part:
        """All of it as one part."""
        items = self.items or ()
        if self.is_leaf or self.place.label is None:
            text = render(self.place.parent, items)
        else:
            prefix = f"{self.place.label} / "
            text = render(self.place.words, [(p.removeprefix(prefix), t) for p, t in items])
        return Part(self.pointer, text, (self.pointer,))

    def moved(self, pointer: str) -> _Node:
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


class _Cutter:
    """One traversal of a state."""

    def __init__(self) -> None:
        self.num_rendered = 0

    def node(
        self, value: Json, place: _Place, old: _Node | None = None, pointer: str = ""
    ) -> _Node:
        if old is not None and old.value is value and old.place == place:
            return old.moved(pointer)
        self.num_rendered += 1
        has_inner_border = any(place.borders)
        if is_leaf(value, place.name_field) and not has_inner_border:
            return _leaf(value, place, pointer)
        nodes = self.children(value, place, old, pointer)
        items = _flat_items(nodes, place)
        node = _Node(value, place, pointer, items, False, (), _kept(nodes))
        if items is None:
            return replace(node, parts=_split(node, nodes))
        return _unless_tiny(node)

    def children(
        self, value: Json, place: _Place, old: _Node | None, pointer: str
    ) -> list[_Node]:
        borders: dict[str, set[tuple[str, ...]]] = {}
        for tail in place.borders - {()}:
            borders.setdefault(tail[0], set()).add(tail[1:])
        hidden = {token: {tail[0] for tail in tails if tail} for token, tails in borders.items()}
        old_nodes = old.children if old is not None else {}
        by_identity = {id(node.value): node for node in old_nodes.values()}
        nodes = []
        for token, label, name_field, child in members(value, place.name_field, hidden):
            below = frozenset(borders.get(token, ()))
            former = old_nodes.get(token)
            if former is None or former.value is not child:
                former = by_identity.get(id(child), former)
            child_place = _Place(below, place.words, label, name_field)
            nodes.append(self.node(child, child_place, former, join_pointer(pointer, token)))
        return nodes

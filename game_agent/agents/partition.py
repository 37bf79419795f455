"""Cuts a world state into parts: short texts that stand alone, one block of the prompt each.

Where a cut falls depends on names, not on values: siblings too small for a part of their own are
joined, and a hash of their names ranks the places where such a run may be cut. So a changed value
changes one part, and a new member one or two, wherever in the state it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from game_agent.agents.cuts import JOIN_CHARS, MIN_CHARS, cut_run, cut_texts, rank
from game_agent.agents.nodes import Node, Part, Place
from game_agent.agents.pointer import Json, join_pointer
from game_agent.agents.rendering import (
    NAME_FIELDS,
    Item,
    is_container,
    is_leaf,
    items_text,
    leaf_texts,
    members,
    render,
)
from game_agent.agents.rules import Do, Rule, below, rule_here
from game_agent.agents.sight import Borders, border_tails, sight_of


@dataclass(frozen=True)
class Partition:
    """A state cut into parts, and what re-cutting its successor can reuse."""

    parts: tuple[Part, ...] = ()
    """In document order; a join stands where its first member does."""
    num_rendered: int = field(default=0, compare=False)
    """Values that were rendered for it, rather than taken from its predecessor."""
    root: Node | None = field(default=None, repr=False, compare=False)


def partition(
    state: Mapping[str, Json],
    borders: Collection[str] = (),
    previous: Partition | None = None,
    rules: Sequence[Rule] = (),
) -> Partition:
    """Cuts ``state``, which must pass ``check_json`` and must not be changed afterwards.

    ``borders`` are paths as in ``sees``: what lies below one shares no part with what does not. A
    border that names nothing has no effect. ``rules`` change how values are cut; a value that has a
    template is one part, borders inside it or not. ``previous`` only saves work: subtrees that are
    the same objects as in the state it was cut from are not rendered again. Raises InvalidInput if
    a border is no such path.
    """
    if not state:
        return Partition()
    tails = border_tails(borders)
    cutter = _Cutter()
    rule_tails = tuple((rule.tokens, rule) for rule in rules)
    place = Place(tails, rules=rule_tails, is_joined=_does(rule_here(rule_tails), "join"))
    root = cutter.node(state, place, previous.root if previous else None)
    return Partition(root.own_parts() if root else (), cutter.num_rendered, root)


def visible(parts: Iterable[Part], sees: Collection[str]) -> tuple[Part, ...]:
    """The parts of which all lies at or below one of the paths ``sees``, each once, in order."""
    sight = sight_of(tuple(sees))
    return tuple(part for part in parts if all(map(sight.covers, part.paths)))


class _Cutter:
    """One traversal of a state."""

    def __init__(self) -> None:
        self.num_rendered = 0

    def node(
        self, value: Json, place: Place, old: Node | None = None, pointer: str = ""
    ) -> Node | None:
        """``value`` rendered; None if rules leave nothing of it."""
        if old is not None and old.value is value and old.place == place:
            return old.moved(pointer)
        self.num_rendered += 1
        rule = rule_here(place.rules)
        if rule is not None and rule.do == "template":
            return _templated(value, place, pointer, rule)
        is_split = _does(rule, "split") and is_container(value) and bool(value)
        if _is_one_text(value, place) and not is_split:
            return _leaf(value, place, pointer)
        nodes = self.children(value, place, old, pointer)
        if not nodes:
            return None
        items = None if is_split else _flat_items(nodes, place.room)
        node = Node(
            value, place, pointer, items, is_leaf=False, children=_by_segment(nodes, pointer)
        )
        if items is None:
            return replace(node, parts=_split(node, nodes, may_join=not is_split))
        return _unless_tiny(node)

    def children(self, value: Json, place: Place, old: Node | None, pointer: str) -> list[Node]:
        borders = Borders(place.borders)
        hidden = _hidden_names(value, place, borders)
        old_nodes = old.children if old is not None else {}
        # Where nothing but values can have changed, a member that is the same object is done with.
        is_same_place = old is not None and old.place == place
        by_identity = {}
        if isinstance(value, list | tuple):
            by_identity = {id(node.value): node for node in old_nodes.values()}
        nodes = []
        for token, label, name_field, child in members(value, place.name_field, hidden):
            former = old_nodes.get(token) if is_same_place and "~" not in token else None
            if former is not None and former.value is child:
                nodes.append(former.moved(f"{pointer}/{token}"))
                continue
            rules = below(place.rules, token)
            rule = rule_here(rules)
            if _does(rule, "omit"):
                continue
            child_pointer = join_pointer(pointer, token)
            former = old_nodes.get(_last_segment(child_pointer))
            if former is None or former.value is not child:
                former = by_identity.get(id(child), former)
            child_place = Place(
                borders.below(token),
                place.words,
                label,
                name_field,
                rules,
                place.is_joined or _does(rule, "join"),
            )
            node = self.node(child, child_place, former, child_pointer)
            if node is not None:
                nodes.append(node)
        return nodes


def _does(rule: Rule | None, do: Do) -> bool:
    return rule is not None and rule.do == do


def _hidden_names(value: Json, place: Place, borders: Borders) -> dict[str, set[str]]:
    """By token, the fields that may not name a member: not all who see it may see them."""
    hidden: dict[str, set[str]] = {}
    if not isinstance(value, list | tuple) or not (place.borders or place.rules):
        return hidden
    for token in map(str, range(len(value))):
        tails, rules = borders.below(token), below(place.rules, token)
        if not (tails or rules):
            continue
        inner = Borders(tails)
        hidden[token] = {
            name
            for name in NAME_FIELDS
            if () in inner.below(name) or _does(rule_here(below(rules, name)), "omit")
        }
    return hidden


def _is_one_text(value: Json, place: Place) -> bool:
    if isinstance(value, list | tuple) and (place.borders or place.rules):
        tokens = [str(index) for index in range(len(value))]
        borders = Borders(place.borders)
        has_inner_border = any(() in borders.below(token) for token in tokens)
        has_inner_rule = any(rule_here(below(place.rules, token)) for token in tokens)
        return is_leaf(value) and not has_inner_border and not has_inner_rule
    return is_leaf(value, place.name_field)


def _leaf(value: Json, place: Place, pointer: str) -> Node:
    texts = leaf_texts(value)
    text = ", ".join(texts)
    if len(text) <= place.leaf_room:
        return _unless_tiny(Node(value, place, pointer, (("", text),), is_leaf=True))
    label = place.label or ""
    parts = tuple(
        Part(pointer, render(place.parent, [(label, stretch)]), (pointer,))
        for stretch in cut_texts(texts, place.leaf_room)
    )
    return Node(value, place, pointer, None, is_leaf=True, parts=parts)


def _templated(value: Json, place: Place, pointer: str, rule: Rule) -> Node | None:
    text = rule.render(value, place.label)
    if not text:
        return None
    parts = (Part(pointer, text, (pointer,)),)
    return Node(value, place, pointer, None, is_leaf=True, parts=parts)


def _unless_tiny(node: Node) -> Node:
    """``node`` with a part of its own, if it is worth one."""
    is_tiny = len(items_text(node.labelled_items)) < MIN_CHARS
    return node if is_tiny else replace(node, parts=(node.whole(),))


def _flat_items(nodes: Sequence[Node], room: int) -> tuple[Item, ...] | None:
    """What ``items`` of their parent is."""
    items: list[Item] = []
    num_chars = -len("; ")
    for node in nodes:
        num_chars += len(items_text(node.labelled_items)) + len("; ")
        if node.items is None or node.is_border or num_chars > room:
            return None
        items += node.labelled_items
    return tuple(items)


def _by_segment(nodes: Iterable[Node], pointer: str) -> dict[str, Node]:
    """The nodes worth finding again; a short leaf is as quickly rendered."""
    start = len(pointer) + 1
    return {n.pointer[start:]: n for n in nodes if n.parts or not n.is_leaf}


def _last_segment(pointer: str) -> str:
    return pointer.rpartition("/")[2]


def _split(parent: Node, nodes: Sequence[Node], *, may_join: bool) -> tuple[Part, ...]:
    """The parts of a container that is not one part: tiny members joined, others alone."""
    candidates = enumerate(nodes) if may_join else ()
    joinable = [i for i, node in candidates if not node.parts and not node.is_border]
    alone = set(range(len(nodes))).difference(joinable)
    placed = [(i, nodes[i].own_parts()) for i in alone]
    texts = [items_text(nodes[i].labelled_items) for i in joinable]
    ranks = [rank(nodes[i].place.label or text) for i, text in zip(joinable, texts, strict=True)]
    for start, stop in cut_run([len(text) + 2 for text in texts], ranks, JOIN_CHARS):
        group = [nodes[i] for i in joinable[start:stop]]
        placed.append((joinable[start], _join(parent, group)))
    placed.sort(key=lambda entry: entry[0])
    return tuple(chain.from_iterable(parts for _, parts in placed))


def _join(parent: Node, group: Sequence[Node]) -> tuple[Part, ...]:
    if len(group) == 1:
        return group[0].own_parts()
    items = [item for node in group for item in node.labelled_items]
    text = render(parent.place.words, items)
    return (Part(parent.pointer, text, tuple(node.pointer for node in group)),)

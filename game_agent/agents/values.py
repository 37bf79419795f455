"""Values that a world holds at a path, as far as somebody sees them: what an action may name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from game_agent.agents.pointer import Json, Path, join_pointer, parse_pointer
from game_agent.agents.rendering import is_container, name_field
from game_agent.agents.rules import Rule, RuleTails, below, rule_here
from game_agent.agents.sight import Sight
from game_agent.errors import InvalidInput

Scalar = str | int | float | bool

AGENT = "{agent}"
"""In a path: the agent's own name."""


@dataclass(frozen=True)
class _Place:
    """A value of the world, and where it stands."""

    value: Json
    pointer: str
    rules: RuleTails

    def members(self) -> Iterator[tuple[str, _Place]]:
        """(key or index, place) of those that the partition's rules do not leave out."""
        pairs: Iterator[tuple[str, Json]] = iter(())
        if isinstance(self.value, Mapping):
            pairs = iter(self.value.items())
        elif isinstance(self.value, list | tuple):
            pairs = ((str(index), element) for index, element in enumerate(self.value))
        for token, value in pairs:
            rules = below(self.rules, token)
            rule = rule_here(rules)
            if rule is None or rule.do != "omit":
                yield token, _Place(value, join_pointer(self.pointer, token), rules)

    def member(self, token: str) -> _Place | None:
        return next((place for name, place in self.members() if name == token), None)


@dataclass(frozen=True)
class View:
    """A world as an agent sees it."""

    agent: str
    state: Mapping[str, Json]
    sees: Collection[str] = ("",)
    rules: Sequence[Rule] = ()

    @cached_property
    def _sight(self) -> Sight:
        return Sight(self.sees)

    def values(self, *pointers: str) -> list[Scalar]:
        """What the values at ``pointers`` have to name, each once, in order.

        Of an object its keys; of an array its texts, numbers and booleans, and of its objects the
        ``id`` or ``name``; else the value itself. Nothing that is not seen, and nothing where the
        world has nothing. Raises InvalidInput for what is no JSON Pointer.
        """
        places = [place for pointer in pointers if (place := self._place(pointer)) is not None]
        named = (value for place in places for value in self._named(place))
        return list({(type(value), value): value for value in named}.values())

    def _place(self, pointer: str) -> _Place | None:
        rules = tuple((rule.tokens, rule) for rule in self.rules)
        place: _Place | None = _Place(self.state, "", rules)
        for token in value_path(pointer, self.agent):
            place = None if place is None else place.member(token)
        return place

    def _named(self, place: _Place) -> Iterator[Scalar]:
        if isinstance(place.value, Mapping):
            yield from (token for token, member in place.members() if self._sees_any_of(member))
        elif is_container(place.value):
            for _, element in place.members():
                if isinstance(element.value, Mapping):
                    field = name_field(element.value)
                    name = None if field is None else element.member(field)
                    element = name or _Place(None, "", ())
                yield from self._scalar(element)
        else:
            yield from self._scalar(place)

    def _scalar(self, place: _Place) -> Iterator[Scalar]:
        value = place.value
        if isinstance(value, Scalar) and value != "" and self._sight.covers(place.pointer):
            yield value

    def _sees_any_of(self, place: _Place) -> bool:
        """Whether something at or below a place is seen; its key stands in the prompt then."""
        if self._sight.covers(place.pointer):
            return True
        return any(self._sees_any_of(member) for _, member in place.members())


def value_path(pointer: Json, agent: str, where: str = "") -> Path:
    """The reference tokens of a path in which ``{agent}`` is a name. Raises InvalidInput."""
    if pointer == "":
        raise InvalidInput("the values of a parameter are not the whole world", where=where)
    return tuple(token.replace(AGENT, agent) for token in parse_pointer(pointer, where))

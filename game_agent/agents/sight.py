"""What somebody sees of a world: paths with ``*`` and ``**``, which are also where it is cut."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache

from game_agent.agents.pointer import Json, Path, join_pointer, parse_pointer
from game_agent.agents.rules import ANY, ANY_DEPTH, MAX_DEEP, tails_after
from game_agent.errors import InvalidInput

Tails = frozenset[Path]
"""Borders as seen from a place: what of their paths is left from there."""


def parse_sight(path: Json, where: str = "") -> Path:
    """The tokens of one path of ``sees``: a JSON Pointer, ``*`` any one key or index, ``**`` any
    number of them.

    Who sees a place sees all below it, so a ``**`` at the end says nothing and is dropped. Raises
    InvalidInput.
    """
    tokens = parse_pointer(path, where)
    if tokens.count(ANY_DEPTH) > MAX_DEEP:
        raise InvalidInput(f"a path has at most {MAX_DEEP} times **", where=where)
    while tokens and tokens[-1] == ANY_DEPTH:
        tokens = tokens[:-1]
    return tokens


class Sight:
    """Tells which places of a world lie at or below one of the paths ``sees``."""

    def __init__(self, sees: Collection[str]) -> None:
        paths = [parse_sight(path) for path in sees]
        self._plain = frozenset(_pointer(path) for path in paths if not _is_pattern(path))
        patterns = dict.fromkeys(_regex(path) for path in paths if _is_pattern(path))
        self._patterns = re.compile(f"(?:{'|'.join(patterns)})(?:/|$)") if patterns else None

    def covers(self, pointer: str) -> bool:
        """Whether the place that the JSON Pointer names is seen."""
        if self._patterns is not None and self._patterns.match(pointer):
            return True
        while pointer and pointer not in self._plain:
            pointer = pointer.rpartition("/")[0]
        return pointer in self._plain


@lru_cache(maxsize=1024)
def sight_of(sees: tuple[str, ...]) -> Sight:
    """The sight of those paths; every question of an agent needs the same one."""
    return Sight(sees)


def _is_pattern(path: Path) -> bool:
    return ANY in path or ANY_DEPTH in path


def _pointer(path: Path) -> str:
    pointer = ""
    for token in path:
        pointer = join_pointer(pointer, token)
    return pointer


def _regex(path: Path) -> str:
    special = {ANY: "/[^/]*", ANY_DEPTH: "(?:/[^/]*)*?"}
    return "".join(special.get(token) or re.escape(join_pointer("", token)) for token in path)


def border_tails(sees: Collection[str]) -> Tails:
    """The paths ``sees`` as borders, seen from the root, which is none itself."""
    return frozenset(map(parse_sight, sees)) - {()}


class Borders:
    """The borders at one place, handed on to its members."""

    def __init__(self, tails: Tails) -> None:
        named: dict[str, set[Path]] = defaultdict(set)
        self._patterns = []
        for tail in filter(None, tails):
            if tail[0] in (ANY, ANY_DEPTH):
                self._patterns.append(tail)
            else:
                named[tail[0]].add(tail[1:])
        self._named = {token: frozenset(rests) for token, rests in named.items()}

    def below(self, token: str) -> Tails:
        """The borders as seen from the member ``token``; () is a border at the member itself."""
        rests = self._named.get(token, frozenset())
        if not self._patterns:
            return rests
        return rests.union(*(tails_after(tail, token) for tail in self._patterns))

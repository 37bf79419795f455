"""A world: a JSON document that changes by patches, cut into the parts that agents see."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from game_agent.agents.limits import MAX_COUNT
from game_agent.agents.lore import Lorebook
from game_agent.agents.nodes import Part
from game_agent.agents.partition import Partition, partition, visible
from game_agent.agents.patch import apply_patch, check_json, merge_patch
from game_agent.agents.pointer import Json
from game_agent.agents.rules import Rule
from game_agent.agents.sight import parse_sight
from game_agent.errors import Conflict, InvalidInput


@dataclass(frozen=True)
class WorldChange:
    """What a change did. ``repeated``: it had been applied before, and was not applied again."""

    seq: int
    blocks: int
    """Parts of the world now."""
    blocks_changed: int
    """Those of them whose text was not in the world before."""
    repeated: bool = False


class World:
    """One world's state and version. Safe to use from any thread; they take turns on ``lock``.

    ``state`` is never mutated, only replaced, and shares untouched subtrees with its predecessor.
    """

    def __init__(
        self,
        name: str,
        state: Mapping[str, Json],
        seq: int = 0,
        *,
        rules: Sequence[Rule] = (),
        lock: threading.RLock | None = None,
    ) -> None:
        self.name = name
        self.rules = tuple(rules)
        self.seq = 0
        self.lore: Lorebook | None = None
        """Known to all agents of the world."""
        self.on_change: Callable[[set[str]], None] | None = None
        """Called after each change with the texts of parts that were not there before."""
        self.state: Mapping[str, Json] = {}
        self._lock = lock or threading.RLock()
        self._borders: Counter[str] = Counter()
        self._partition = Partition()
        self._is_cut = True
        self.put(state, seq)

    @property
    def partition(self) -> Partition:
        """The state, cut along the borders; what has not changed is not cut again."""
        with self._lock:
            if not self._is_cut:
                self._partition = partition(
                    self.state, set(self._borders), self._partition, self.rules
                )
                self._is_cut = True
            return self._partition

    @property
    def num_blocks(self) -> int:
        """Parts of the world, each a block to those who see it."""
        return len(self.partition.parts)

    def put(
        self, state: Mapping[str, Json], seq: int = 0, rules: Sequence[Rule] | None = None
    ) -> WorldChange:
        """Replaces the whole state, sets ``seq``, and the rules of the partition if given.

        Raises InvalidInput, changing nothing.
        """
        if not isinstance(state, dict):
            raise InvalidInput("the state of a world is an object", where="state")
        check_seq(seq)
        check_json(state)
        with self._lock:
            old = self.partition
            if rules is not None:
                self.rules = tuple(rules)
            return self._change(copy.deepcopy(state), seq, _digest("put", state), old)

    def patch(
        self,
        ops: Sequence[Json] | None = None,
        *,
        merge: Mapping[str, Json] | None = None,
        seq: int | None = None,
    ) -> WorldChange:
        """Applies a JSON Patch or a JSON Merge Patch: exactly one of them, all of it or nothing.

        With ``seq`` it must be the next one, or the last one with the same content again, which
        changes nothing. Raises Conflict for any other ``seq``, InvalidInput for a patch that does
        not apply; both change nothing.
        """
        if (ops is None) == (merge is None):
            raise InvalidInput("a change needs either a JSON Patch or a Merge Patch", where="patch")
        content = _checked(ops, merge)
        digest = _digest("patch" if merge is None else "merge", content)
        with self._lock:
            if seq == self.seq and digest == self._digest:
                return replace(self._last, repeated=True)
            if seq is not None and seq != self.seq + 1:
                message = f'change {seq} of the world "{self.name}" is not the next one'
                message += f", {self.seq + 1}; send what is missing, or the whole state again"
                raise Conflict(message, expected=self.seq + 1, where="seq")
            check_seq(self.seq + 1)
            apply = apply_patch if merge is None else merge_patch
            state = apply(self.state, copy.deepcopy(content))
            return self._change(state, self.seq + 1, digest, self.partition)

    def add_borders(self, sees: Collection[str]) -> None:
        """Has parts begin and end where the paths ``sees`` do. Raises InvalidInput.

        Counted: each call is to be taken back by one ``remove_borders``.
        """
        if isinstance(sees, str):
            raise InvalidInput("sees is a list of paths, not one", where="sees")
        for index, path in enumerate(sees):
            parse_sight(path, f"sees/{index}")
        with self._lock:
            self._borders.update(sees)
            self._is_cut = False

    def remove_borders(self, sees: Collection[str]) -> None:
        """Takes back one ``add_borders`` of the same paths."""
        with self._lock:
            self._borders = +(self._borders - Counter(sees))
            self._is_cut = False

    @property
    def seen(self) -> tuple[str, ...]:
        """All paths that somebody sees: those of ``add_borders``."""
        return tuple(self._borders)

    def parts(self, sees: Collection[str]) -> tuple[Part, ...]:
        """What somebody who sees the paths ``sees`` is shown of the world, in order."""
        return visible(self.partition.parts, sees)

    def _change(
        self, state: Mapping[str, Json], seq: int, digest: bytes, old: Partition
    ) -> WorldChange:
        new = partition(state, set(self._borders), old, self.rules)
        added = Counter(_texts_beside(new, old))
        added -= Counter(_texts_beside(old, new))
        self.state, self.seq, self._partition = state, seq, new
        self._digest = digest
        self._last = WorldChange(seq, len(new.parts), added.total())
        if self.on_change is not None:
            self.on_change(set(added))
        return self._last


def check_seq(seq: object, where: str = "seq") -> None:
    """Raises InvalidInput if ``seq`` is no number of a world's version."""
    if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq <= MAX_COUNT:
        raise InvalidInput(f"seq is a whole number, 0 to {MAX_COUNT}", where=where)


def _texts_beside(one: Partition, other: Partition) -> list[str]:
    """Texts of the parts of ``one``, without the very parts that ``other`` shares with it."""
    shared = set(map(id, other.parts))
    return [part.text for part in one.parts if id(part) not in shared]


def _checked(ops: Sequence[Json] | None, merge: Mapping[str, Json] | None) -> Any:
    """The content of a change, which is plain JSON and of the right kind."""
    if merge is not None and not isinstance(merge, dict):
        raise InvalidInput("a Merge Patch of a world is an object", where="merge")
    content = ops if merge is None else merge
    check_json(content)
    return content


def _digest(kind: str, content: object) -> bytes:
    text = json.dumps([kind, content], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

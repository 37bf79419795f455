"""Which unused entry goes first: one that was not used for long and is cheap to encode again."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from functools import lru_cache
from typing import Protocol

# Classes of worth per factor of two: within a class entries count as equal.
CLASSES_PER_DOUBLING = 2


class Evictable(Protocol):
    """Something that holds pages and is worth keeping."""

    @property
    def num_pages(self) -> int: ...
    @property
    def worth_class(self) -> int: ...


@lru_cache(maxsize=4096)
def worth_class(flops: float, num_pages: int) -> int:
    """The class of what takes ``flops`` operations to encode and ``num_pages`` pages to hold."""
    return round(CLASSES_PER_DOUBLING * math.log2(max(flops / num_pages, 1.0)))


class EvictionOrder:
    """GreedyDual with sizes (Young 1994; Cao and Irani 1997), every operation in constant time.

    When an entry becomes unused its priority is *age* + worth: operations per page that evicting it
    would cost. The lowest priority goes first, and the age becomes that priority, so that what is
    worth much but is never used again goes in the end. Where all are worth the same, this is least
    recently used. Worth comes in few classes; the age never falls, so each class is in order of
    priority by itself and only the heads of the classes are compared.
    """

    def __init__(self) -> None:
        self.num_pages = 0
        self._age = 0.0
        self._classes: dict[int, OrderedDict[Evictable, float]] = {}

    def add(self, entry: Evictable) -> None:
        """``entry`` is not used any more, as of now."""
        priority = self._age + 2.0 ** (entry.worth_class / CLASSES_PER_DOUBLING)
        self._classes.setdefault(entry.worth_class, OrderedDict())[entry] = priority
        self.num_pages += entry.num_pages

    def remove(self, entry: Evictable) -> None:
        """``entry`` is used again. Raises ``KeyError`` if it was not here."""
        members = self._classes[entry.worth_class]
        del members[entry]
        if not members:
            del self._classes[entry.worth_class]
        self.num_pages -= entry.num_pages

    def take(self, num_pages: int) -> list[Evictable]:
        """Remove entries that hold ``num_pages`` pages together, the first to go first.

        There must be that many (:attr:`num_pages`).
        """
        victims: list[Evictable] = []
        heads = [(_first(members)[1], kind) for kind, members in self._classes.items()]
        heapq.heapify(heads)
        while num_pages > 0:
            self._age, kind = heads[0]
            members = self._classes[kind]
            entry, _ = members.popitem(last=False)
            victims.append(entry)
            num_pages -= entry.num_pages
            self.num_pages -= entry.num_pages
            if members:
                heapq.heapreplace(heads, (_first(members)[1], kind))
            else:
                heapq.heappop(heads)
                del self._classes[kind]
        return victims


def _first(members: OrderedDict[Evictable, float]) -> tuple[Evictable, float]:
    return next(iter(members.items()))

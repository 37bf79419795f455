"""The store: which block's KV lies in which pages. Content-addressed, so nothing is invalidated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from game_agent.blocks.eviction import EvictionOrder, worth_class
from game_agent.blocks.pool import PagePool, pages_for

Ints = npt.NDArray[np.int32]

# Pins may hold this share of the memory; the rest is always there for questions.
PIN_SHARE = 0.5


class NeverFits(MemoryError):
    """There would be no room even with nothing else in use."""


@dataclass(eq=False, slots=True)
class Entry:
    """The KV of one block: the first ``num_filled`` of ``num_tokens`` tokens are written to
    ``pages``, and the last ``num_copied`` were there from the start.

    It is *published* (may be found and kept when unused) once it is full. ``worth_class``: what it
    costs to encode again (see ``eviction.py``). ``is_kept``: a tier below has it, or will soon.
    """

    key: bytes
    num_tokens: int
    pages: Ints
    num_filled: int = 0
    num_refs: int = 0
    num_copied: int = 0
    worth_class: int = 0
    is_kept: bool = False
    num_pages: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_pages = len(self.pages)

    @property
    def num_missing(self) -> int:
        """Tokens still to be computed."""
        return self.num_tokens - self.num_copied - self.num_filled

    @property
    def published(self) -> bool:
        return not self.num_missing


class Holding(NamedTuple):
    """What :meth:`BlockStore.hold` gave.

    entries: of every key, in order; keys that occur twice share one
    made:    indices of those that were absent and have to be filled
    frame:   pages for a frame of the caller's own
    """

    entries: list[Entry]
    made: list[int]
    frame: Ints


class BlockStore:
    """Entries by key, counted references, and eviction of what is unused. Safe from any thread.

    An entry with references is never evicted. One that loses its last reference before it is
    published is dropped at once: nobody will finish it. A pinned key's entry stays once published.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self._lock = threading.RLock()
        self._entries: dict[bytes, Entry] = {}
        self._unused = EvictionOrder()
        self._pins: dict[bytes, _Pin] = {}
        self._num_pinned_pages = 0
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.published

    @property
    def num_available_pages(self) -> int:
        """Pages that :meth:`allocate` can give, evicting what is unused."""
        return self.pool.num_free + self._unused.num_pages

    @property
    def num_block_pages(self) -> int:
        """Pages held by entries, used or not."""
        with self._lock:
            return sum(entry.num_pages for entry in self._entries.values())

    def hold(
        self,
        keys: Sequence[bytes],
        num_tokens: Sequence[int],
        num_frame_pages: int = 0,
        flops: Callable[[int], float] = lambda _: 0.0,
    ) -> Holding:
        """One more reference to the entry of every key, absent ones made; and a frame's pages.

        num_tokens: of each key's block
        flops:      operations to encode the block of an index; asked for absent ones only

        All or nothing: raises ``MemoryError`` when there is no room now, :class:`NeverFits` when
        there would be none if nobody else held anything.
        """
        with self._lock:
            held = [self._entries.get(key) for key in keys]
            found = [entry for entry in held if entry is not None]
            made = _first_of_each(keys, held)
            counts = [pages_for(num_tokens[i]) for i in made]
            # What is there is held first, so that making room for the rest cannot evict it.
            for entry in found:
                self._hold(entry)
            try:
                pages = self.allocate(sum(counts) + num_frame_pages)
            except MemoryError:
                self._check_whether_ever(set(keys), sum(counts) + num_frame_pages, found)
                self.release_all(found)
                raise
            begin = 0
            for i, count in zip(made, counts, strict=True):
                end = begin + count
                self._make(keys[i], num_tokens[i], pages[begin:end], flops(i))
                begin = end
            entries = [self._entries[key] for key in keys]
            if made:
                for entry, was_there in zip(entries, held, strict=True):
                    entry.num_refs += was_there is None
            return Holding(entries, made, pages[begin:])

    def published(self) -> list[Entry]:
        """All entries that are complete, the caller holding none of them."""
        with self._lock:
            return [entry for entry in self._entries.values() if entry.published]

    def acquire(self, key: bytes) -> Entry | None:
        """The entry of ``key`` with one more reference, published or on its way; None if absent."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._hold(entry)
            return entry

    def adopt(
        self, key: bytes, num_tokens: int, pages: Ints, flops: float = 0.0, *, is_kept: bool = False
    ) -> Entry:
        """A published entry of pages from :meth:`allocate` that are filled already; one reference.

        If the key is there by now, that entry, and the pages are given back.
        """
        with self._lock:
            entry = self.acquire(key)
            if entry is not None:
                self.pool.free(pages)
                return entry
            entry = self._make(key, num_tokens, pages, flops)
            entry.num_filled, entry.num_refs, entry.is_kept = num_tokens, 1, is_kept
            return entry

    def release(self, entry: Entry) -> None:
        """Give back one reference."""
        self.release_all([entry])

    def release_all(self, entries: Iterable[Entry]) -> None:
        """Give back one reference to each."""
        with self._lock:
            for entry in entries:
                assert entry.num_refs > 0, "released more often than acquired"
                entry.num_refs -= 1
                if entry.num_refs:
                    continue
                if not entry.published:
                    del self._entries[entry.key]
                    self.pool.free(entry.pages)
                elif entry.key not in self._pins:
                    self._unused.add(entry)

    def discard(self, key: bytes) -> None:
        """Drop an unused entry that nobody will ask for again; one in use, or absent, stays."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.num_refs or key in self._pins:
                return
            self._unused.remove(entry)
            del self._entries[key]
            self.pool.free(entry.pages)

    def allocate(self, count: int) -> Ints:
        """``count`` pages for a frame of the caller's own, evicting what is worth least."""
        with self._lock:
            missing = count - self.pool.num_free
            if missing > self._unused.num_pages:
                raise MemoryError(f"{count} pages wanted, {self.num_available_pages} available")
            if missing > 0:
                victims = cast("list[Entry]", self._unused.take(missing))
                for entry in victims:
                    del self._entries[entry.key]
                self.pool.free(np.concatenate([entry.pages for entry in victims]))
                self.num_evicted += len(victims)
            return self.pool.allocate(count)

    def free(self, pages: Ints) -> None:
        """Give back pages from :meth:`allocate`."""
        with self._lock:
            self.pool.free(pages)

    def pin(self, key: bytes, num_tokens: int) -> bool:
        """Keep the entry of ``key``, of ``num_tokens`` tokens, whether it is there yet or not.

        Pins count: as many :meth:`unpin` undo them. False, and nothing is pinned, when all pins
        together would hold more than ``PIN_SHARE`` of the memory.
        """
        with self._lock:
            pin = self._pins.get(key)
            if pin is None:
                num_pages = pages_for(num_tokens)
                if self._num_pinned_pages + num_pages > PIN_SHARE * self.pool.num_pages:
                    return False
                entry = self._entries.get(key)
                if entry is not None and not entry.num_refs:
                    self._unused.remove(entry)
                pin = self._pins[key] = _Pin(num_pages)
                self._num_pinned_pages += num_pages
            pin.count += 1
            return True

    def unpin(self, key: bytes) -> None:
        """Undo one :meth:`pin` that was granted."""
        with self._lock:
            pin = self._pins[key]
            pin.count -= 1
            if pin.count:
                return
            del self._pins[key]
            self._num_pinned_pages -= pin.num_pages
            entry = self._entries.get(key)
            if entry is not None and not entry.num_refs:
                self._unused.add(entry)

    def _make(self, key: bytes, num_tokens: int, pages: Ints, flops: float) -> Entry:
        entry = Entry(key, num_tokens, pages, worth_class=worth_class(flops, len(pages)))
        self._entries[key] = entry
        return entry

    def _hold(self, entry: Entry) -> None:
        if entry.num_refs == 0 and entry.key not in self._pins:
            self._unused.remove(entry)
        entry.num_refs += 1

    def _check_whether_ever(self, keys: set[bytes], num_new: int, found: list[Entry]) -> None:
        """Raise :class:`NeverFits` if ``num_new`` pages beside ``found`` and pins are too many."""
        pinned = (self._entries.get(key) for key in self._pins if key not in keys)
        num_pinned = sum(entry.num_pages for entry in pinned if entry is not None)
        num_own = num_new + sum(entry.num_pages for entry in set(found))
        if num_own + num_pinned > self.pool.num_pages:
            self.release_all(found)
            beside = f" beside {num_pinned} that are pinned" if num_pinned else ""
            raise NeverFits(f"{num_own} pages wanted, there are {self.pool.num_pages}{beside}")


@dataclass(slots=True)
class _Pin:
    num_pages: int
    count: int = 0


def _first_of_each(keys: Sequence[bytes], held: list[Entry | None]) -> list[int]:
    """Indices of absent keys, each key once."""
    seen: set[bytes] = set()
    indices = []
    for i, entry in enumerate(held):
        if entry is None and keys[i] not in seen:
            seen.add(keys[i])
            indices.append(i)
    return indices

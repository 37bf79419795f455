"""The store: which block's KV lies in which pages. Content-addressed, so nothing is invalidated."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from game_agent.blocks.pool import PagePool, pages_for

Ints = npt.NDArray[np.int32]


@dataclass(eq=False)
class Entry:
    """The KV of one block: ``num_filled`` of ``num_tokens`` tokens are written to ``pages``.

    It is *published* (may be found and kept when unused) once it is full.
    """

    key: bytes
    num_tokens: int
    pages: Ints
    num_filled: int = 0
    num_refs: int = 0

    @property
    def published(self) -> bool:
        return self.num_filled == self.num_tokens


class BlockStore:
    """Entries by key, counted references, and eviction of the least recently used.

    An entry with references is never evicted. One that loses its last reference before it is
    published is dropped at once: nobody will finish it.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self._entries: dict[bytes, Entry] = {}
        self._unused: OrderedDict[bytes, Entry] = OrderedDict()
        self._num_unused_pages = 0
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.published

    @property
    def num_available_pages(self) -> int:
        """Pages that :meth:`allocate` can give, evicting what is unused."""
        return self.pool.num_free + self._num_unused_pages

    @property
    def num_block_pages(self) -> int:
        """Pages held by entries, used or not."""
        return sum(len(entry.pages) for entry in self._entries.values())

    def acquire(self, key: bytes) -> Entry | None:
        """The entry of ``key`` with one more reference, published or on its way; None if absent."""
        entry = self._entries.get(key)
        if entry is not None:
            self._hold(entry)
        return entry

    def reserve(self, key: bytes, num_tokens: int) -> Entry:
        """A new entry of ``num_tokens`` empty places with one reference.

        Raises ``MemoryError`` when there is no room even after eviction; ``key`` must be absent.
        """
        assert key not in self._entries, "reserve() of a key that is there"
        entry = Entry(key, num_tokens, self.allocate(pages_for(num_tokens)), num_refs=1)
        self._entries[key] = entry
        return entry

    def release(self, entry: Entry) -> None:
        """Give back one reference."""
        assert entry.num_refs > 0, "released more often than acquired"
        entry.num_refs -= 1
        if entry.num_refs:
            return
        if entry.published:
            self._unused[entry.key] = entry
            self._num_unused_pages += len(entry.pages)
        else:
            self._drop(entry)

    def allocate(self, count: int) -> Ints:
        """``count`` pages for a frame of the caller's own, evicting the least recently used."""
        if count > self.num_available_pages:
            raise MemoryError(f"{count} pages wanted, {self.num_available_pages} available")
        while self.pool.num_free < count:
            _, entry = self._unused.popitem(last=False)
            self._num_unused_pages -= len(entry.pages)
            self._drop(entry)
            self.num_evicted += 1
        return self.pool.allocate(count)

    def free(self, pages: Ints) -> None:
        """Give back pages from :meth:`allocate`."""
        self.pool.free(pages)

    def _hold(self, entry: Entry) -> None:
        if entry.num_refs == 0:
            del self._unused[entry.key]
            self._num_unused_pages -= len(entry.pages)
        entry.num_refs += 1

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self.pool.free(entry.pages)

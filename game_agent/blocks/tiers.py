"""Below the store: encoded blocks in host memory and on disk, moved while nobody waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import Queue, SimpleQueue
from typing import NamedTuple

import torch

from game_agent.blocks.disk import DiskTier, KeysValues
from game_agent.blocks.host import HostTier
from game_agent.blocks.pool import PagePool, pages_for
from game_agent.blocks.store import BlockStore, Entry, Ints
from game_agent.config import CacheSettings
from game_agent.errors import InvalidInput
from game_agent_kernels import PAGE_TOKENS

log = logging.getLogger(__name__)

# Keys that mean the same to everybody and to a later process (see ``block_keys``).
SHARED = (b"b", b"f")
# With less of the memory free than this, blocks are kept below at their first use.
SHORT_OF_ROOM = 0.25


class Wanted(NamedTuple):
    """A block that will be asked for; ``flops`` it takes to encode it."""

    key: bytes
    num_tokens: int
    flops: float


Fetched = Callable[[list[Entry]], None]


class Tiers:
    """Keeps published entries below the store and brings them back, in two threads of its own.

    An entry is kept when it is used a second time, so that what changes every tick is not written
    every tick; and at once while the store is short of room, since it may be evicted before there
    is a second time. :meth:`close` keeps the rest.
    """

    def __init__(
        self, store: BlockStore, *, host: HostTier | None = None, disk: DiskTier | None = None
    ) -> None:
        self._store = store
        self._host = host
        self._disk = disk
        self._was_short = False
        self.num_kept = 0
        self.num_fetched = 0
        self._writes: Queue[bytes | None] = Queue()
        self._reads: SimpleQueue[tuple[Sequence[Wanted], Fetched] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._write_all, "kv-write"), (self._read_all, "kv-read"))
        ]
        for thread in self._threads:
            thread.start()

    def __contains__(self, key: bytes) -> bool:
        in_host = self._host is not None and key in self._host
        return in_host or (self._disk is not None and key in self._disk)

    def figures(self) -> dict[str, int]:
        """For ``stats``."""
        return {
            "blocks_kept": self.num_kept,
            "blocks_fetched": self.num_fetched,
            "kv_host_bytes": 0 if self._host is None else self._host.num_bytes,
            "kv_disk_bytes": 0 if self._disk is None else self._disk.num_bytes,
        }

    def used(self, entries: Iterable[Entry], made: Container[int]) -> None:
        """A prompt used ``entries``, published; those at indices ``made`` for the first time."""
        pool = self._store.pool
        is_short = pool.num_free < SHORT_OF_ROOM * pool.num_pages
        if is_short and not self._was_short:
            self._keep_all()
        self._was_short = is_short
        for index, entry in enumerate(entries):
            if not entry.is_kept and entry.published and (is_short or index not in made):
                self._keep(entry)

    def fetch(self, wanted: Sequence[Wanted], done: Fetched) -> None:
        """Bring what is here of ``wanted`` into the store, as far as there is room; then ``done``.

        ``done`` is called from another thread, with one reference to each entry: they are the
        caller's to release.
        """
        self._reads.put((wanted, done))

    def flush(self) -> None:
        """Keep every published entry that is not kept yet, and wait until all is written."""
        self._keep_all()
        self._writes.join()

    def close(self) -> None:
        """Keep the rest, wait until all is written, end the threads. May be called again."""
        if not any(thread.is_alive() for thread in self._threads):
            return
        self.flush()
        self._writes.put(None)
        self._reads.put(None)
        for thread in self._threads:
            thread.join()

    def _keep_all(self) -> None:
        for entry in self._store.published():
            if not entry.is_kept:
                self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        if entry.key[:1] in SHARED:
            entry.is_kept = True
            self._writes.put(entry.key)

    def _write_all(self) -> None:
        mover = _Mover(self._store.pool)
        while (key := self._writes.get()) is not None:
            try:
                self._write(key, mover)
            except Exception:
                log.exception("an encoded block could not be kept")
            finally:
                self._writes.task_done()

    def _write(self, key: bytes, mover: _Mover) -> None:
        if key in self:
            return
        # Held meanwhile, so that its pages are not given to others.
        entry = self._store.acquire(key)
        if entry is None:
            return
        try:
            if not entry.published:
                return
            tensors = mover.copy_out(entry.pages, entry.num_tokens)
        finally:
            self._store.release(entry)
        if self._host is not None:
            self._host.put(key, tensors)
        if self._disk is not None:
            self._disk.put(key, entry.num_tokens, tensors)
        self.num_kept += 1

    def _read_all(self) -> None:
        mover = _Mover(self._store.pool)
        while (job := self._reads.get()) is not None:
            wanted, done = job
            held: list[Entry] = []
            try:
                for each in wanted:
                    held += self._read(each, mover)
            except MemoryError:
                log.debug("no room for all blocks that were kept")
            except Exception:
                log.exception("a kept block could not be brought back")
            finally:
                done(held)

    def _read(self, wanted: Wanted, mover: _Mover) -> list[Entry]:
        """The entry, held; nothing where a file was damaged."""
        there = self._store.acquire(wanted.key)
        if there is not None:
            return [there]
        tensors = self._find(wanted, mover)
        if tensors is None:
            return []
        pages = self._store.allocate(pages_for(wanted.num_tokens))
        try:
            mover.copy_in(tensors, pages)
        except Exception:
            self._store.free(pages)
            raise
        self.num_fetched += 1
        return [self._store.adopt(wanted.key, wanted.num_tokens, pages, wanted.flops, is_kept=True)]

    def _find(self, wanted: Wanted, mover: _Mover) -> KeysValues | None:
        tensors = None if self._host is None else self._host.get(wanted.key)
        if tensors is None and self._disk is not None:
            like = mover.empty(pages_for(wanted.num_tokens))
            tensors = self._disk.get(wanted.key, wanted.num_tokens, like)
            if tensors is not None and self._host is not None:
                self._host.put(wanted.key, tensors)
        return tensors


class _Mover:
    """Copies pages between the pool and the host, for one thread.

    On a GPU in a stream of its own, so that no forward pass waits: it begins behind the work that
    was launched before (which wrote these pages, or still reads what they held), and is over when
    a method returns.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._stream = torch.cuda.Stream(pool.keys.device) if pool.keys.is_cuda else None

    def empty(self, num_pages: int) -> KeysValues:
        """What so many pages look like, without memory."""
        keys, values = self._pool.keys, self._pool.values
        return (
            torch.empty(len(keys), num_pages, *keys.shape[2:], dtype=keys.dtype, device="meta"),
            torch.empty(len(values), num_pages, *values.shape[2:], dtype=keys.dtype, device="meta"),
        )

    def copy_out(self, pages: Ints, num_tokens: int) -> KeysValues:
        """Contents of ``pages`` on the CPU; places behind ``num_tokens`` are 0."""
        keys, values = (
            torch.empty(like.shape, dtype=like.dtype, pin_memory=self._stream is not None)
            for like in self.empty(len(pages))
        )
        with self._ordered():
            for i, page in enumerate(pages.tolist()):
                keys[:, i].copy_(self._pool.keys[:, page], non_blocking=True)
                values[:, i].copy_(self._pool.values[:, page], non_blocking=True)
        self._wait()
        used = num_tokens % PAGE_TOKENS
        if used:
            keys[:, -1, :, :, used:] = 0
            values[:, -1, :, used:] = 0
        return keys, values

    def copy_in(self, tensors: KeysValues, pages: Ints) -> None:
        """Write ``tensors`` to ``pages``."""
        keys, values = tensors
        with self._ordered():
            for i, page in enumerate(pages.tolist()):
                self._pool.keys[:, page].copy_(keys[:, i], non_blocking=True)
                self._pool.values[:, page].copy_(values[:, i], non_blocking=True)
        self._wait()

    def _ordered(self) -> AbstractContextManager[object]:
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.default_stream(self._pool.keys.device))
        return torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


def open_tiers(store: BlockStore, settings: CacheSettings, fingerprint: bytes) -> Tiers:
    """Tiers as set; ``fingerprint`` names the model.

    Raises :class:`InvalidInput` when the folder cannot be used.
    """
    try:
        disk = (
            None
            if settings.folder is None
            else DiskTier(settings.folder, fingerprint, settings.disk_bytes)
        )
    except OSError as error:
        raise InvalidInput(
            f"the folder {settings.folder} for encoded blocks cannot be used: {error}",
            where="kv_cache",
        ) from None
    return Tiers(
        store, host=HostTier(settings.host_bytes) if settings.host_bytes else None, disk=disk
    )

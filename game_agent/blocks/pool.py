"""Pages: room for the keys and values of 16 tokens of one frame, in every layer."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import threading

import numpy as np
import numpy.typing as npt
import torch

from game_agent_kernels import PAGE_TOKENS

Ints = npt.NDArray[np.int32]

MADV_POPULATE_WRITE = 23  # of <linux/mman.h>; Python's mmap has no name for it
POPULATE_BYTES = 2**22


class PagePool:
    """A fixed number of pages and the tensors behind them.

    keys:   [layers, pages, kv_heads, head_dim, PAGE_TOKENS]
    values: [layers, pages, kv_heads, PAGE_TOKENS, head_dim]
    """

    def __init__(
        self,
        num_pages: int,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        page = (num_layers, num_pages, num_kv_heads)
        self.keys = _room((*page, head_dim, PAGE_TOKENS), dtype, torch.device(device))
        self.values = _room((*page, PAGE_TOKENS, head_dim), dtype, torch.device(device))
        self.num_pages = num_pages
        self._free = np.arange(num_pages - 1, -1, -1, dtype=np.int32)
        self.num_free = num_pages

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, keys and values of all layers."""
        return 2 * self.keys.nbytes // self.num_pages

    def allocate(self, count: int) -> Ints:
        """``count`` page ids [count]. Raises ``MemoryError`` when fewer are free."""
        if count > self.num_free:
            raise MemoryError(f"{count} pages wanted, {self.num_free} free")
        self.num_free -= count
        return self._free[self.num_free : self.num_free + count][::-1].copy()

    def free(self, pages: Ints) -> None:
        """Give pages back; each must have come from :meth:`allocate` and be given back once."""
        assert self.num_free + len(pages) <= self.num_pages, "pages freed twice"
        self._free[self.num_free : self.num_free + len(pages)] = pages[::-1]
        self.num_free += len(pages)

    def copy(self, source: Ints, target: Ints) -> None:
        """Copy what lies in pages ``source`` to pages ``target``, as many, in all layers."""
        device = self.keys.device
        read, write = (torch.from_numpy(pages).to(device).long() for pages in (source, target))
        for tensor in (self.keys, self.values):
            tensor[:, write] = tensor[:, read]


def _room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised tensor: the system hands out memory as pages are first written.

    On a CPU it comes from numpy, which asks Linux for huge pages: first writes then cost one fault
    per 2 MiB instead of 512, and long contexts are read with fewer address look-ups.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.empty(num_bytes, np.uint8)).view(dtype).view(shape)


def touch_first_pages(pool: PagePool, num_bytes: int = 2**28) -> threading.Thread | None:
    """Have the system back the pages that are handed out first with memory, in the background.

    A first write to fresh memory costs a page fault in the middle of a question. Only on Linux
    (5.14 or later; earlier kernels refuse, which does no harm); None elsewhere.
    """
    if sys.platform != "linux" or pool.keys.device.type != "cpu":
        return None
    num_pages = min(pool.num_pages, max(1, num_bytes // pool.page_bytes))
    ranges = [
        (layer.data_ptr(), layer.nbytes // pool.num_pages * num_pages)
        for tensor in (pool.keys, pool.values)
        for layer in tensor
    ]
    # No daemon: it may be the last to hold the pool, and a thread that the interpreter cuts off
    # while torch frees memory ends the process. It stops with the main thread.
    thread = threading.Thread(target=_populate, args=(pool, ranges), daemon=False)
    thread.start()
    return thread


def _populate(pool: PagePool, ranges: list[tuple[int, int]]) -> None:
    """``pool`` is held so that its memory outlives this."""
    madvise = ctypes.CDLL(None).madvise
    for start, length in ranges:
        first = start - start % mmap.PAGESIZE
        # In steps, since the memory map is locked meanwhile. Contents are kept: this may run beside
        # a step that writes the same pages.
        for at in range(first, start + length, POPULATE_BYTES):
            if not threading.main_thread().is_alive():
                return
            size = min(POPULATE_BYTES, start + length - at)
            madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), MADV_POPULATE_WRITE)


def pages_for(num_tokens: int) -> int:
    """Pages that hold ``num_tokens`` tokens of one frame."""
    return -(-num_tokens // PAGE_TOKENS)

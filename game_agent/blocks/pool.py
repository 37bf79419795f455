"""Pages: room for the keys and values of 16 tokens of one frame, in every layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from game_agent_kernels import PAGE_TOKENS

Ints = npt.NDArray[np.int32]


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
        # Not cleared: the system hands out memory as pages are first written.
        self.keys = torch.empty(*page, head_dim, PAGE_TOKENS, dtype=dtype, device=device)
        self.values = torch.empty(*page, PAGE_TOKENS, head_dim, dtype=dtype, device=device)
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


def pages_for(num_tokens: int) -> int:
    """Pages that hold ``num_tokens`` tokens of one frame."""
    return -(-num_tokens // PAGE_TOKENS)

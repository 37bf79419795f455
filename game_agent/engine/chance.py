"""What chance gives a reply."""

from __future__ import annotations

import secrets
from collections import deque
from itertools import islice

import torch

_AT_ONCE = 64  # numbers made together: making one takes as long as making many


class Chance:
    """Numbers in [0, 1), in an order that its seed decides; ``seed`` None: another each time."""

    def __init__(self, seed: int | None) -> None:
        seed = secrets.randbits(63) if seed is None else seed % 2**63
        self._generator = torch.Generator().manual_seed(seed)
        self._ahead: deque[float] = deque()

    def peek(self, count: int) -> list[float]:
        """The next numbers, which stay the next ones."""
        while len(self._ahead) < count:
            self._ahead.extend(torch.rand(_AT_ONCE, generator=self._generator).tolist())
        return list(islice(self._ahead, count))

    def take(self) -> float:
        """The next number."""
        self.peek(1)
        return self._ahead.popleft()

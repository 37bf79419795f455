"""Encoded blocks in the host's memory, beside a GPU's."""

from __future__ import annotations

import threading
from collections import OrderedDict

from game_agent.blocks.disk import KeysValues


class HostTier:
    """Keys and values of blocks in the host's memory, the latest used within ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._blocks: OrderedDict[bytes, KeysValues] = OrderedDict()
        self.num_bytes = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def put(self, key: bytes, tensors: KeysValues) -> None:
        """Keep them; what was not used for longest goes where there is no room."""
        size = _size(tensors)
        with self._lock:
            if size > self._max_bytes or key in self._blocks:
                return
            self._blocks[key] = tensors
            self.num_bytes += size
            while self.num_bytes > self._max_bytes:
                _, oldest = self._blocks.popitem(last=False)
                self.num_bytes -= _size(oldest)

    def get(self, key: bytes) -> KeysValues | None:
        """What was put, or None."""
        with self._lock:
            tensors = self._blocks.get(key)
            if tensors is not None:
                self._blocks.move_to_end(key)
            return tensors


def _size(tensors: KeysValues) -> int:
    return sum(tensor.nbytes for tensor in tensors)

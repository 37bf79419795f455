"""Blocks to make ready while nobody waits for an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from game_agent.blocks.block import Block, block_key
from game_agent.blocks.store import BlockStore
from game_agent.engine.request import Request

IdleSource = Callable[[], Iterable[Block]]
"""Blocks that will be asked for, as things stand now. Called from the engine's thread."""


def first_blocks(blocks: Iterable[Block], max_tokens: int) -> tuple[list[Block], bool]:
    """As many ``blocks`` as ``max_tokens`` hold, one at least; and whether there are more."""
    taken: list[Block] = []
    num_tokens = 0
    for block in blocks:
        if taken and num_tokens + len(block) > max_tokens:
            return taken, True
        taken.append(block)
        num_tokens += len(block)
    return taken, False


class NewBlocks:
    """What the source has that is not in the store, as requests of one short step each."""

    def __init__(self, store: BlockStore, digest: bytes, max_tokens: int) -> None:
        self.source: IdleSource | None = None
        self._store = store
        self._digest = digest
        self._max_tokens = max_tokens

    def take(self) -> tuple[Request | None, bool]:
        """The next request, if there is any; and whether there are more."""
        if self.source is None:
            return None, False
        missing = (
            block for block in self.source() if block_key(self._digest, block) not in self._store
        )
        blocks, has_more = first_blocks(missing, self._max_tokens)
        if not blocks:
            return None, False
        return Request(tuple(blocks), np.empty(0, np.int32), max_tokens=0, priority=-1), has_more

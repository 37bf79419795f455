"""Blocks that one agent keeps in the KV memory, however seldom it is asked."""

from __future__ import annotations

from collections.abc import Sequence

from game_agent.blocks.block import SHARED_MODES, Block, block_keys
from game_agent.engine import Engine
from game_agent.engine.request import Mode


class Pins:
    """A set of pinned blocks at the beginning of an agent's prompt; a new set replaces the old."""

    def __init__(self, engine: Engine, mode: Mode) -> None:
        self._engine = engine
        self._mode = mode
        self._keys: list[bytes] = []

    def keep(self, blocks: Sequence[Block]) -> bool:
        """Pin ``blocks``, encoded or not, and no others.

        False, and what was pinned stays so, where all pins together would hold too much of the
        memory. In a mode whose blocks are private to the agent there is nothing to pin.
        """
        store = self._engine.store
        pinned: list[bytes] = []
        if self._mode in SHARED_MODES:
            keys = block_keys(self._engine.runner.digest, blocks, self._mode)
            for key, block in zip(keys, blocks, strict=True):
                if not store.pin(key, len(block)):
                    for done in pinned:
                        store.unpin(done)
                    return False
                pinned.append(key)
        self.release()
        self._keys = pinned
        return True

    def release(self) -> None:
        """Pin nothing any more."""
        for key in self._keys:
            self._engine.store.unpin(key)
        self._keys = []

"""Texts to blocks."""

from __future__ import annotations

from collections import OrderedDict

from game_agent.blocks.block import Block
from game_agent.text.formats import PromptEncoder


class BlockCache:
    """Texts to blocks. Most texts of a prompt were in the one before, so most are found here."""

    def __init__(self, encoder: PromptEncoder, max_blocks: int = 65536) -> None:
        self.encoder = encoder
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[tuple[str, bool], Block] = OrderedDict()

    def block(self, text: str, source: str, *, first: bool = False) -> Block:
        """The block of ``text``; ``source`` is kept from the first time it was seen."""
        key = (text, first)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = Block(self.encoder.block(text, first=first), source)
            if len(self._blocks) > self._max_blocks:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return block

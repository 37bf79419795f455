"""Blocks to make ready while nobody waits for an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from game_agent.blocks.block import Block

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

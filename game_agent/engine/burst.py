"""Several tokens of replies in one call, where nobody waits for anything between them.

What lies between two passes in Python takes a third of the time of a short one.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt

from game_agent.engine.draw import ahead, draws_of
from game_agent.engine.sequence import Chunk
from game_agent.model.planner import page_slots
from game_agent_kernels import PAGE_TOKENS, Draws

MAX_S = 0.005
"""No burst is longer, unless one pass is: so much later is a token heard, or a deadline kept.

Whatever is new waits for one pass, as ever."""
MAX_TOKENS = 8


def burst_tokens(chunks: Seq[Chunk]) -> int:
    """How many tokens of each reply may be computed now; 0: no burst.

    Only replies under way, of which a token is to be drawn and nothing else asked, and only as many
    tokens as their last pages have room for and all of them want.
    """
    if not all(map(_is_plain, chunks)):
        return 0
    wanted = min(chunk.sequence.max_tokens - chunk.sequence.num_generated for chunk in chunks)
    room = min(PAGE_TOKENS - chunk.sequence.num_computed % PAGE_TOKENS for chunk in chunks)
    count = min(wanted, room, MAX_TOKENS)
    return count if count > 1 else 0


def _is_plain(chunk: Chunk) -> bool:
    sequence = chunk.sequence
    return (
        chunk.block is None
        and chunk.option is None
        and chunk.num_tokens == 1
        and sequence.decoding
        and sequence.num_pending == 1
        and sequence.constraint is None
        and sequence.scoring is None
        and not sequence.request.score
    )


def burst_slots(chunks: Seq[Chunk], count: int) -> npt.NDArray[np.int64]:
    """Where the keys of the next ``count`` tokens of each reply go: [count, replies]."""
    return np.stack(
        [
            page_slots(each.pages, each.num_computed, each.num_computed + count)
            for each in (chunk.sequence for chunk in chunks)
        ],
        axis=1,
    )


def burst_draws(chunks: Seq[Chunk], count: int) -> Draws:
    """How they are drawn; what chance gives them stays the next that it gives."""
    sequences = [chunk.sequence for chunk in chunks]
    samplings = [sequence.request.sampling for sequence in sequences]
    return draws_of(samplings, [ahead(sequence, count) for sequence in sequences])

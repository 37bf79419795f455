"""What the next step computes. Pure: sequences in, chunks out; no torch, no clock, no sockets."""

from __future__ import annotations

from collections.abc import Iterable

from game_agent.engine.sequence import Chunk, Sequence


def select(sequences: Iterable[Sequence], step_tokens: int) -> list[Chunk]:
    """Fill one step of at most ``step_tokens`` new tokens.

    Replies under way come first, one token each, so that no long prefill stalls them; then prompts
    by priority and age. A block that several need is computed once, for the first of them. An
    event comes only when all its blocks are complete, in this step at the latest.
    """
    budget = step_tokens
    taken: dict[int, int] = {}
    chunks: list[Chunk] = []
    for sequence in sorted(sequences, key=_order):
        ready = True
        for index in sequence.unfilled():
            entry = sequence.entries[index]
            left = entry.num_tokens - entry.num_filled - taken.get(id(entry), 0)
            count = min(left, budget)
            if count:
                chunks.append(Chunk(sequence, index, count))
                taken[id(entry)] = taken.get(id(entry), 0) + count
                budget -= count
            if count < left:
                ready = False
                break
        count = min(sequence.num_pending, budget)
        if ready and count:
            chunks.append(Chunk(sequence, None, count))
            budget -= count
    return chunks


def _order(sequence: Sequence) -> tuple[bool, int, int]:
    return (not sequence.decoding, -sequence.request.priority, sequence.arrival)

"""What the next step computes, and who is taken up next.

Pure: sequences in, chunks out; no torch, no clock, no sockets, no state of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from game_agent.engine.sequence import Chunk, Sequence

OLDEST_SHARE = 8
"""One in so many tokens of a step is the oldest prompt's, whatever comes with higher priority."""
BESIDE_OTHERS = 16
"""Most tokens that nobody waits for in a step that somebody waits for."""
MAX_OVERTAKEN = 64
"""A waiting request that so many younger ones have overtaken is the next to be taken up."""


def admission_order(waiting: Iterable[Sequence], running: Iterable[Sequence]) -> list[Sequence]:
    """Who is taken up first, while there is room.

    Questions come before blocks that nobody waits for, higher priorities before lower; among equals
    peers take turns, counting what each has running. Nobody is overtaken for ever.
    """
    num_held = Counter(sequence.request.peer for sequence in running)
    turns = {}
    for sequence in sorted(waiting, key=_by_priority):
        turns[sequence] = num_held[sequence.request.peer]
        num_held[sequence.request.peer] += 1

    def order(sequence: Sequence) -> tuple[bool, bool, int, int, int]:
        request = sequence.request
        is_passed_over = sequence.num_overtaken >= MAX_OVERTAKEN
        turn = 0 if is_passed_over else turns[sequence]
        priority = 0 if is_passed_over else request.priority
        is_late = request.is_background and not is_passed_over
        return (not is_passed_over, is_late, -priority, turn, sequence.arrival)

    return sorted(turns, key=order)


def select(sequences: Iterable[Sequence], step_tokens: int, idle_tokens: int) -> list[Chunk]:
    """Fill one step of at most ``step_tokens`` new tokens.

    Replies under way come first, one token each, so that no long prefill stalls them; then prompts
    by priority, an equal share of the step for each peer. Blocks that nobody waits for get what is
    left, ``idle_tokens`` at most, so that a question which comes meanwhile is not held up, and
    fewer in a step that somebody waits for. A part of each step is the oldest prompt's, so that
    every one is computed in the end.

    A block that several need is computed once. An event comes only when all its blocks are
    complete, in this step at the latest, and options only after their event. What is for idle time
    is left alone while there is anything else.
    """
    sequences = list(sequences)
    sequences = [each for each in sequences if not each.request.is_idle] or sequences
    replies, questions, background = _by_kind(sequences)
    if replies or questions:
        idle_tokens = min(idle_tokens, BESIDE_OTHERS)
    step = _Step(step_tokens)
    for sequence in replies:
        step.add(sequence, step.left)
    prompts = [*questions, *background]
    if len(prompts) > 1:
        oldest = min(prompts, key=lambda sequence: sequence.arrival)
        limit = idle_tokens if oldest.request.is_background else step_tokens
        taken = step.add(oldest, min(limit, max(1, step.left // OLDEST_SHARE)))
        idle_tokens -= taken if oldest.request.is_background else 0
    for level in _levels(questions):
        step.share(level)
    for sequence in background:
        idle_tokens -= step.add(sequence, idle_tokens)
    return step.chunks()


_Part = tuple[int | None, int | None]
"""Of a sequence: (a block, None), (None, an option), or (None, None), its own frame."""


class _Step:
    """A step that is being filled; ``left`` tokens are still free."""

    def __init__(self, num_tokens: int) -> None:
        self.left = num_tokens
        self._taken: Counter[int] = Counter()
        self._counts: dict[Sequence, dict[_Part, int]] = {}

    def add(self, sequence: Sequence, limit: int) -> int:
        """Take at most ``limit`` tokens of what a sequence needs next; return how many."""
        room = limit = min(limit, self.left)
        counts = self._counts.setdefault(sequence, {})
        is_ready = True
        for index in sequence.unfilled():
            entry = sequence.entries[index]
            missing = entry.num_missing - self._taken[id(entry)]
            count = min(missing, room)
            self._taken[id(entry)] += count
            counts[index, None] = counts.get((index, None), 0) + count
            room -= count
            if count < missing:
                is_ready = False
                break
        if is_ready:
            for option, missing in sequence.pending():
                own = counts.get((None, option), 0)
                counts[None, option] = own + min(missing - own, room)
                room -= counts[None, option] - own
        self.left -= limit - room
        return limit - room

    def share(self, sequences: list[Sequence]) -> None:
        """Split what is left equally between the peers; what one does not need is the others'."""
        lines: dict[str, list[Sequence]] = {}
        for sequence in sequences:
            lines.setdefault(sequence.request.peer, []).append(sequence)
        while lines and self.left:
            share = max(1, self.left // len(lines))
            lines = {peer: line for peer, line in lines.items() if self._fill(line, share)}

    def _fill(self, line: list[Sequence], share: int) -> bool:
        """Spend a peer's share on its sequences in order. False: it needed less."""
        for sequence in line:
            share -= self.add(sequence, share)
        return not share

    def chunks(self) -> list[Chunk]:
        """What was taken, each sequence's together and in order."""
        return [
            Chunk(sequence, block, count, option)
            for sequence, counts in self._counts.items()
            for (block, option), count in counts.items()
            if count
        ]


def _by_kind(sequences: Iterable[Sequence]) -> tuple[list[Sequence], ...]:
    """Replies under way, questions that wait for their first token, background; each in order."""
    replies: list[Sequence] = []
    questions: list[Sequence] = []
    background: list[Sequence] = []
    for sequence in sorted(sequences, key=_by_priority):
        if sequence.decoding:
            replies.append(sequence)
        elif sequence.request.is_background:
            background.append(sequence)
        else:
            questions.append(sequence)
    return replies, questions, background


def _levels(questions: list[Sequence]) -> Iterator[list[Sequence]]:
    """Sequences of equal priority together, the highest first."""
    levels: dict[int, list[Sequence]] = {}
    for sequence in questions:
        levels.setdefault(sequence.request.priority, []).append(sequence)
    yield from levels.values()


def _by_priority(sequence: Sequence) -> tuple[int, int]:
    return (-sequence.request.priority, sequence.arrival)

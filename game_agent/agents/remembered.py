"""Which turns of a memory a prompt holds, and how they read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.memory import Memory, Turn
from game_agent.agents.rendering import collapse
from game_agent.blocks.block import Block

Entry = tuple[str, Block]
"""Where a block of a prompt comes from, and the block."""


class Remembered:
    """Chooses turns of a memory; only those that fit are looked at, however many there are."""

    def __init__(self, cache: BlockCache, memory: Memory, name: str) -> None:
        self._cache = cache
        self._memory = memory
        self._name = name

    def entries(self, room: int, budget: MemoryBudget, query: str | None) -> list[Entry]:
        """At most ``room`` tokens: the summary of what was long ago, if there is one, and turns.

        The turns are the pinned ones, as many of the latest as fit beside them, and up to
        ``budget.recall`` older ones that ``query`` is about, which take at most half of what the
        pinned ones and the summary leave. They stand oldest first.
        """
        chosen: dict[int, Entry] = {}
        room = self._fill(chosen, reversed(self._memory.pinned()), room)
        summary = self._summary(room // 2) if budget.summarize else {}
        since = max(summary, default=-1)
        room -= sum(len(block) for _, block in summary.values())
        latest = dict(chosen)
        self._fill(latest, self._since(since), room)
        if query is not None and budget.recall and len(latest) < len(self._memory):
            oldest = min(latest.keys() - chosen.keys(), default=self._memory.next_index)
            recalled = self._memory.recall(query, budget.recall, before=oldest)
            room -= room // 2 - self._fill(chosen, recalled, room // 2)
            self._fill(chosen, self._since(since), room)
            latest = chosen
        return [*summary.values(), *(latest[index] for index in sorted(latest))]

    def too_old(self, room: int, limit: int) -> list[Turn]:
        """Turns to be summed up next, at most ``limit`` tokens of them, if not all fit ``room``.

        As few of the latest are left over as fill half of the room. Oldest first; they follow the
        last summary.
        """
        pinned: dict[int, Entry] = {}
        room = self._fill(pinned, reversed(self._memory.pinned()), room)
        room -= sum(len(block) for _, block in self._summary(room // 2).values())
        last = self._memory.summed_up
        since = -1 if last is None else last.index
        latest, kept = dict(pinned), dict(pinned)
        self._fill(latest, self._since(since), room)
        if sum(index > since for index in latest) == self._memory.num_after(since):
            return []
        self._fill(kept, self._since(since), room // 2)
        stop = min(kept.keys() - pinned.keys(), default=self._memory.next_index)
        turns: list[Turn] = []
        for turn in takewhile(lambda turn: turn.index < stop, self._memory.after(since)):
            limit -= len(self.block(turn))
            if limit < 0:
                break
            turns.append(turn)
        return turns

    def block(self, turn: Turn) -> Block:
        """The turn as a block."""
        return self._cache.block(turn_text(turn, self._name), f"memory:{turn.index}")

    def summary_block(self) -> Block | None:
        """The last summary as a block, if there is one."""
        turn = self._memory.summed_up
        if turn is None:
            return None
        return self._cache.block(summary_text(turn.summary or ""), f"summary:{turn.index}")

    def _summary(self, room: int) -> dict[int, Entry]:
        """The last summary by the index of its turn; nothing if there is none that fits."""
        turn, block = self._memory.summed_up, self.summary_block()
        if turn is None or block is None or len(block) > room:
            return {}
        return {turn.index: (f"summary:{turn.index}", block)}

    def _since(self, index: int) -> Iterator[Turn]:
        """The turns after the one of that index, the newest first."""
        return takewhile(lambda turn: turn.index > index, self._memory.newest_first())

    def _fill(self, chosen: dict[int, Entry], turns: Iterable[Turn], room: int) -> int:
        """Adds turns up to the first that does not fit; returns what is left of the room."""
        for turn in turns:
            if turn.index in chosen:
                continue
            block = self.block(turn)
            if len(block) > room:
                break
            room -= len(block)
            chosen[turn.index] = (f"memory:{turn.index}", block)
        return room


def summary_text(text: str) -> str:
    """What happened long ago, summed up, as the text of its block."""
    return f"Summary of what happened before: {collapse(text)}"


def turn_text(turn: Turn, agent_name: str) -> str:
    """A finished turn as the text of its block."""
    if turn.kind == "event":
        return f"Event: {collapse(turn.text)}"
    return f"{event_text(turn.speaker, turn.text)}\n{agent_name}: {collapse(turn.reply or '')}"


def event_text(speaker: str, text: str) -> str:
    """What somebody says, on one line, so that no text can speak for another."""
    name = collapse(speaker)
    return f"{name[:1].upper()}{name[1:]}: {collapse(text)}"

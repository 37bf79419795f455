"""What an agent remembers: turns, oldest first."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import Literal, TypeGuard, cast, get_args

from game_agent.agents.patch import check_json
from game_agent.agents.pointer import Json
from game_agent.agents.recall import RecallIndex
from game_agent.errors import InvalidInput, NotFound

VERSION = 3  # 1 knew no pinned turns, 2 no summaries

_ADDED: dict[str, Json] = {"pinned": False, "summary": None}
"""Fields that turns of older versions lack. A server writes turns singly: they may be mixed."""

Kind = Literal["said", "event"]


@dataclass(frozen=True)
class Turn:
    """Something that was said to the agent and answered, or an event that it observed."""

    kind: Kind
    speaker: str
    """Who spoke; empty for an event."""
    text: str
    reply: str | None
    """The agent's answer; None for an event."""
    game_time: float | None
    index: int
    """Counts all turns that the agent ever had: one that was forgotten leaves a gap."""
    pinned: bool = False
    """Whether it stays in the prompt when older and newer ones must leave it."""
    summary: str | None = None
    """What has happened up to and with this turn, summed up; most turns have none."""

    @property
    def words(self) -> str:
        """All that was said in it, for a search."""
        return f"{self.speaker} {self.text} {self.reply or ''}"


class Memory:
    """The turns of one agent. Not safe to use from several threads at once."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._pinned: dict[int, Turn] = {}
        self._summed: list[int] = []
        """Indices of the turns that have a summary, rising."""
        self._next_index = 0
        self._recall: RecallIndex | None = None
        """Of all turns; made when it is first needed."""

    @property
    def next_index(self) -> int:
        """What the next turn will be counted as."""
        return self._next_index

    def __len__(self) -> int:
        return len(self._turns)

    def observe(self, text: str, game_time: float | None = None, *, pinned: bool = False) -> Turn:
        """Remembers an event."""
        return self._append("event", "", text, None, game_time, pinned)

    def add_turn(self, speaker: str, text: str, reply: str, game_time: float | None = None) -> Turn:
        """Remembers what ``speaker`` said and what the agent replied."""
        return self._append("said", speaker, text, reply, game_time)

    def turns(self, last: int | None = None) -> tuple[Turn, ...]:
        """The ``last`` turns, or all. Raises InvalidInput if ``last`` is negative."""
        if last is not None and last < 0:
            raise InvalidInput("the number of turns must not be negative", where="last")
        start = 0 if last is None else max(len(self._turns) - last, 0)
        return tuple(self._turns[start:])

    def newest_first(self) -> Iterator[Turn]:
        """All turns, the last one first; nothing is copied."""
        return reversed(self._turns)

    def messages(self) -> Iterator[str]:
        """What was said and observed, the newest first."""
        for turn in self.newest_first():
            if turn.reply is not None:
                yield turn.reply
            yield turn.text

    def recall(self, query: str, limit: int, before: int | None = None) -> list[Turn]:
        """At most ``limit`` turns that ``query`` is about, the best first.

        All have an index lower than ``before``, if that is given. See :class:`RecallIndex`.
        """
        if self._recall is None:
            self._recall = RecallIndex()
            for turn in self._turns:
                self._recall.add(turn.index, turn.words)
        places = map(self._place, self._recall.search(query, limit, before))
        return [self._turns[place] for place in places if place is not None]

    def after(self, index: int) -> Iterator[Turn]:
        """The turns of a higher index, oldest first; nothing is copied."""
        start = len(self._turns) - self.num_after(index)
        return (self._turns[place] for place in range(start, len(self._turns)))

    def num_after(self, index: int) -> int:
        """How many turns have a higher index."""
        return len(self._turns) - bisect_right(self._turns, index, key=lambda turn: turn.index)

    @property
    def summed_up(self) -> Turn | None:
        """The latest turn that has a summary; None if none has."""
        return self.find(self._summed[-1]) if self._summed else None

    def sum_up(self, index: int, summary: str) -> None:
        """Notes what has happened up to and with the turn of that index. Raises NotFound."""
        place = self._needed(index)
        self._put(place, replace(self._turns[place], summary=summary))

    def find(self, index: int) -> Turn | None:
        """The turn of that index, None if it was forgotten."""
        place = self._place(index)
        return None if place is None else self._turns[place]

    def pinned(self) -> tuple[Turn, ...]:
        """The pinned turns, oldest first."""
        return tuple(self._pinned[index] for index in sorted(self._pinned))

    def pin(self, index: int, *, pinned: bool = True) -> None:
        """Pins the turn of that index, or lets it go. Raises NotFound."""
        place = self._needed(index)
        self._put(place, replace(self._turns[place], pinned=pinned))

    def heard(self, index: int, num_chars: int) -> None:
        """Cuts a reply to its first ``num_chars`` characters; no effect if it was forgotten.

        Raises InvalidInput if ``num_chars`` is negative.
        """
        check_heard(num_chars)
        place = self._place(index)
        if place is not None and (reply := self._turns[place].reply) is not None:
            self._put(place, replace(self._turns[place], reply=reply[:num_chars].rstrip()))

    def rewind(self, game_time: float) -> int:
        """Forgets what came after ``game_time``; returns how many turns that were.

        A turn without a time of its own goes with the timed turn before it; one that came before
        all of those stays. No summary stays that tells of what was forgotten. Raises InvalidInput
        for a time that is no number.
        """
        if isnan(game_time):
            raise InvalidInput("a game time is a number", where="game_time")
        kept: list[Turn] = []
        is_kept = True
        for place, turn in enumerate(self._turns):
            if turn.game_time is not None:
                is_kept = turn.game_time <= game_time
            if is_kept:
                is_whole = len(kept) == place
                kept.append(turn if is_whole else replace(turn, summary=None))
            elif self._recall is not None:
                self._recall.remove(turn.index, turn.words)
        num_forgotten = len(self._turns) - len(kept)
        self._turns = kept
        self._pinned = {turn.index: turn for turn in kept if turn.pinned}
        self._summed = [turn.index for turn in kept if turn.summary is not None]
        return num_forgotten

    def to_value(self) -> dict[str, Json]:
        """The memory as plain JSON, for ``from_value``."""
        turns = [asdict(turn) for turn in self._turns]
        return {"version": VERSION, "next_index": self._next_index, "turns": turns}

    @classmethod
    def from_value(cls, value: Json) -> Memory:
        """The memory that ``to_value`` gave. Raises InvalidInput for anything else."""
        check_json(value)
        version = value.get("version") if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping) or not (_is_count(version) and 1 <= version <= VERSION):
            message = f"this is no memory of version 1 to {VERSION}, which are those known here"
            raise InvalidInput(message, where="/version")
        turns = value.get("turns")
        if not isinstance(turns, list):
            raise InvalidInput("the turns of a memory are an array", where="/turns")
        memory = cls()
        for position, fields in enumerate(turns):
            if isinstance(fields, Mapping):
                fields = {**_ADDED, **fields}
            memory._add(_turn(fields, memory._next_index, f"/turns/{position}"))
        next_index = value.get("next_index")
        if not _is_count(next_index) or next_index < memory._next_index:
            message = "the next index must be a whole number above those of all turns"
            raise InvalidInput(message, where="/next_index")
        memory._next_index = next_index
        return memory

    def _append(
        self,
        kind: Kind,
        speaker: str,
        text: str,
        reply: str | None,
        game_time: float | None,
        pinned: bool = False,
    ) -> Turn:
        turn = Turn(kind, speaker, text, reply, game_time, self._next_index, pinned)
        check_json(asdict(turn))
        self._add(turn)
        return turn

    def _add(self, turn: Turn) -> None:
        self._turns.append(turn)
        self._next_index = turn.index + 1
        if self._recall is not None:
            self._recall.add(turn.index, turn.words)
        if turn.pinned:
            self._pinned[turn.index] = turn
        if turn.summary is not None:
            self._summed.append(turn.index)

    def _needed(self, index: int) -> int:
        place = self._place(index)
        if place is None:
            raise NotFound(f"there is no turn {index} in memory", where="index")
        return place

    def _place(self, index: int) -> int | None:
        """Where in ``_turns`` the turn of that index stands; None if it was forgotten."""
        place = bisect_left(self._turns, index, key=lambda turn: turn.index)
        is_there = place < len(self._turns) and self._turns[place].index == index
        return place if is_there else None

    def _put(self, place: int, turn: Turn) -> None:
        if self._recall is not None:
            self._recall.remove(turn.index, self._turns[place].words)
            self._recall.add(turn.index, turn.words)
        if turn.summary is not None and self._turns[place].summary is None:
            insort(self._summed, turn.index)
        self._turns[place] = turn
        self._pinned.pop(turn.index, None)
        if turn.pinned:
            self._pinned[turn.index] = turn


def check_heard(num_chars: int) -> None:
    """Raises InvalidInput unless it is a number of characters."""
    if isinstance(num_chars, bool) or not isinstance(num_chars, int) or num_chars < 0:
        raise InvalidInput("the number of characters must not be negative", where="chars")


def _is_count(value: Json) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _turn(fields: Json, min_index: int, where: str) -> Turn:
    names = tuple(Turn.__dataclass_fields__)
    if not isinstance(fields, Mapping) or set(fields) != set(names):
        raise InvalidInput(f"a turn has the fields {', '.join(names)}", where=where)
    kind, speaker, text, reply, game_time, index, pinned, summary = (fields[n] for n in names)
    if kind not in get_args(Kind):
        raise InvalidInput('a turn\'s kind is "said" or "event"', where=f"{where}/kind")
    if not isinstance(speaker, str):
        raise InvalidInput("a turn's speaker is a text", where=f"{where}/speaker")
    if not isinstance(text, str):
        raise InvalidInput("a turn's text is a text", where=f"{where}/text")
    if not (isinstance(reply, str) if kind == "said" else reply is None):
        raise InvalidInput("what was said has a reply, an event has none", where=f"{where}/reply")
    if isinstance(game_time, bool) or not isinstance(game_time, int | float | None):
        raise InvalidInput("a game time is a number or null", where=f"{where}/game_time")
    if not _is_count(index) or index < min_index:
        raise InvalidInput("the indices of turns must increase", where=f"{where}/index")
    if not isinstance(pinned, bool):
        raise InvalidInput("a turn is pinned or not: true or false", where=f"{where}/pinned")
    if not isinstance(summary, str | None):
        raise InvalidInput("a summary is a text or null", where=f"{where}/summary")
    reply = cast(str | None, reply)
    return Turn(cast(Kind, kind), speaker, text, reply, game_time, index, pinned, summary)

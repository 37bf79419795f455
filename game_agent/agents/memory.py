"""What an agent remembers: turns, oldest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, TypeGuard, cast, get_args

from game_agent.agents.patch import Json, check_json
from game_agent.errors import InvalidInput

VERSION = 1

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


class Memory:
    """The turns of one agent. Not safe to use from several threads at once."""

    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._next_index = 0

    def observe(self, text: str, game_time: float | None = None) -> Turn:
        """Remembers an event."""
        return self._append("event", "", text, None, game_time)

    def add_turn(self, speaker: str, text: str, reply: str, game_time: float | None = None) -> Turn:
        """Remembers what ``speaker`` said and what the agent replied."""
        return self._append("said", speaker, text, reply, game_time)

    def turns(self, last: int | None = None) -> tuple[Turn, ...]:
        """The ``last`` turns, or all. Raises InvalidInput if ``last`` is negative."""
        if last is not None and last < 0:
            raise InvalidInput("the number of turns must not be negative", where="last")
        start = 0 if last is None else max(len(self._turns) - last, 0)
        return tuple(self._turns[start:])

    def rewind(self, game_time: float) -> int:
        """Forgets what came after ``game_time``; returns how many turns that were.

        A turn without a time of its own goes with the timed turn before it; one that came before
        all of those stays.
        """
        kept: list[Turn] = []
        is_kept = True
        for turn in self._turns:
            if turn.game_time is not None:
                is_kept = turn.game_time <= game_time
            if is_kept:
                kept.append(turn)
        num_forgotten = len(self._turns) - len(kept)
        self._turns = kept
        return num_forgotten

    def to_value(self) -> dict[str, Json]:
        """The memory as plain JSON, for ``from_value``."""
        turns = [asdict(turn) for turn in self._turns]
        return {"version": VERSION, "next_index": self._next_index, "turns": turns}

    @classmethod
    def from_value(cls, value: Json) -> Memory:
        """The memory that ``to_value`` gave. Raises InvalidInput for anything else."""
        check_json(value)
        if not isinstance(value, Mapping) or value.get("version") != VERSION:
            raise InvalidInput(f"this is no memory of version {VERSION}", where="/version")
        turns = value.get("turns")
        if not isinstance(turns, list):
            raise InvalidInput("the turns of a memory are an array", where="/turns")
        memory = cls()
        for position, fields in enumerate(turns):
            turn = _turn(fields, memory._next_index, f"/turns/{position}")
            memory._turns.append(turn)
            memory._next_index = turn.index + 1
        next_index = value.get("next_index")
        if not _is_count(next_index) or next_index < memory._next_index:
            message = "the next index must be a whole number above those of all turns"
            raise InvalidInput(message, where="/next_index")
        memory._next_index = next_index
        return memory

    def _append(
        self, kind: Kind, speaker: str, text: str, reply: str | None, game_time: float | None
    ) -> Turn:
        turn = Turn(kind, speaker, text, reply, game_time, self._next_index)
        check_json(asdict(turn))
        self._turns.append(turn)
        self._next_index += 1
        return turn


def _is_count(value: Json) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _turn(fields: Json, min_index: int, where: str) -> Turn:
    names = tuple(Turn.__dataclass_fields__)
    if not isinstance(fields, Mapping) or set(fields) != set(names):
        raise InvalidInput(f"a turn has the fields {', '.join(names)}", where=where)
    kind, speaker, text, reply, game_time, index = (fields[name] for name in names)
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
    return Turn(cast(Kind, kind), speaker, text, cast(str | None, reply), game_time, index)

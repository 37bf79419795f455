"""Saves on their way to clients and back, in parts that fit a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from game_agent.agents.lore import Lorebook
from game_agent.agents.snapshot import Snapshot, read_snapshot
from game_agent.errors import InvalidInput, TooLarge
from game_agent.protocol import messages
from game_agent.protocol.codec import Map
from game_agent.protocol.limits import Limits
from game_agent.server.backend import Agent, Backend, World
from game_agent.server.session import Session

MAX_PART_BYTES = 2**20


@dataclass
class _Saving:
    """A save on its way out: all of its parts."""

    world: str
    parts: list[bytes]


@dataclass
class _Loading:
    """A save on its way in: the bytes and the number of the parts that have come."""

    num_parts: int
    num_come: int = 0
    data: bytearray = field(default_factory=bytearray)


class Transfers:
    """``save`` and ``load``: at most one of each under way for a session.

    All parts of a save are of one moment: the one at which part 0 was asked for.
    """

    def __init__(self, runtime: Backend, limits: Limits) -> None:
        self._runtime = runtime
        self._limits = limits
        self._part_bytes = min(MAX_PART_BYTES, max(limits.max_frame_bytes // 2, 1))
        self._saves: WeakKeyDictionary[Session, _Saving] = WeakKeyDictionary()
        self._loads: WeakKeyDictionary[Session, _Loading] = WeakKeyDictionary()

    def save(self, session: Session, request: messages.Save) -> Map:
        """The fields of the reply. Raises ``NotFound`` or ``InvalidInput``."""
        if request.part == 0:
            self._saves.pop(session, None)
            data = self._runtime.save(request.world)
            starts = range(0, len(data), self._part_bytes)
            parts = [data[start : start + self._part_bytes] for start in starts]
            self._saves[session] = _Saving(request.world, parts)
        transfer = self._saves.get(session)
        if transfer is None or transfer.world != request.world:
            message = "this save is not (or no longer) under way; ask for part 0 first"
            raise InvalidInput(message, where="part")
        num_parts = len(transfer.parts)
        if request.part >= num_parts:
            message = f"the save has {num_parts} parts, counted from 0"
            raise InvalidInput(message, where="part")
        if request.part == num_parts - 1:
            del self._saves[session]
        data = transfer.parts[request.part]
        return {"data": data, "part": request.part, "parts": num_parts}

    def load(self, session: Session, request: messages.Load) -> Snapshot | None:
        """Takes one part; with the last one the save is read. None: more are to come.

        Raises ``InvalidInput`` for a part out of order, ``TooLarge`` above ``max_save_bytes``, and
        what ``read_snapshot`` raises; the load must then begin again with part 0.
        """
        transfer = self._loads.pop(session, None)
        if request.part == 0:
            transfer = _Loading(request.parts)
        if transfer is None or transfer.num_parts != request.parts:
            message = f"part {request.part} of {request.parts} without the parts before it"
            raise InvalidInput(f"{message}; begin with part 0", where="part")
        if request.part != transfer.num_come:
            message = f"part {transfer.num_come} is next, not {request.part}"
            raise InvalidInput(f"{message}; begin with part 0", where="part")
        transfer.num_come += 1
        transfer.data += request.data
        if len(transfer.data) > self._limits.max_save_bytes:
            message = f"a save has at most {self._limits.max_save_bytes} bytes"
            raise TooLarge(message, where="data")
        if transfer.num_come < transfer.num_parts:
            self._loads[session] = transfer
            return None
        snapshot = read_snapshot(bytes(transfer.data))
        self._check_room(snapshot)
        return snapshot

    def _check_room(self, snapshot: Snapshot) -> None:
        runtime, limits = self._runtime, self._limits
        worlds = {*runtime.worlds, snapshot.world}
        stay = {a.name for a in runtime.agents.values() if a.world.name != snapshot.world}
        agents = stay | {agent.persona.name for agent in snapshot.agents}
        for kind, names, limit in (
            ("worlds", worlds, limits.max_worlds),
            ("agents", agents, limits.max_agents),
        ):
            if len(names) > limit:
                raise TooLarge(f"with this save there would be more than {limit} {kind}")


def requests_that_make(world: World, agents: list[Agent]) -> Iterator[messages.Request]:
    """The requests that would have made a world and its agents, but for lore and memories."""
    rules = [rule.to_value() for rule in world.rules]
    yield messages.WorldPut(
        v=1, id=0, world=world.name, state=world.state, seq=world.seq, partition=rules
    )
    for agent in agents:
        persona, profile = agent.persona, agent.persona.profile
        yield messages.AgentPut(
            v=1,
            id=0,
            agent=agent.name,
            world=world.name,
            profile=dict(profile) if isinstance(profile, Mapping) else profile,
            card=None if persona.card is None else dict(persona.card.value),
            sees=agent.sees,
            instructions=persona.instructions,
            memory_tokens=agent.budget.tokens,
            recall=agent.budget.recall,
            summarize=agent.budget.summarize,
            actions=[action.to_value() for action in persona.actions] or None,
        )


def book_fields(book: Lorebook) -> Map:
    """The fields of the ``lore.put`` that makes this lorebook.

    Its numbers are those that are in force: cards and saves may say others that mean the same.
    """
    in_force = {
        "scan_depth": book.scan_depth,
        "token_budget": book.token_budget,
        "recursive_scanning": book.is_recursive,
    }
    said = {name: value for name, value in in_force.items() if book.value.get(name) is not None}
    return {"entries": book.value["entries"], **said}

"""Writes down what requests changed, before they are answered, and restores it at the start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from game_agent.agents.lore import Lorebook
from game_agent.agents.memory import VERSION as MEMORY_VERSION
from game_agent.agents.memory import Memory, Turn
from game_agent.agents.patch import apply_patch, merge_patch
from game_agent.errors import GameAgentError, Unavailable
from game_agent.protocol import VERSION, messages
from game_agent.protocol.codec import Map
from game_agent.server.backend import Backend, World
from game_agent.server.journal import Journal, NoJournal
from game_agent.server.operations import Operations
from game_agent.server.replay import ReplyLog
from game_agent.server.settings import ServerSettings
from game_agent.server.state import (
    Definition,
    Patch,
    SavedMemory,
    SavedReply,
    SavedWorld,
    StateStore,
)
from game_agent.server.transfers import book_fields


@dataclass(slots=True)
class _KnownWorld:
    """A world as it was last written down; ``state`` is never mutated by its owner."""

    fields: Map
    state: Any
    seq: int


class StateJournal:
    """A journal in a :class:`StateStore`.

    Requests are carried out first and written then; a reply leaves only after ``commit``, so what a
    client was told is on disk, and one commit serves all requests of a turn. What could not be
    written shows at ``commit``, which raises ``Unavailable``: the server must end then, before it
    tells anybody of changes that are not on disk.
    """

    def __init__(
        self, runtime: Backend, operations: Operations, store: StateStore, replay_s: float = 60.0
    ) -> None:
        self._runtime = runtime
        self._operations = operations
        self._store = store
        self._replies = ReplyLog(store, replay_s)
        self._worlds: dict[str, _KnownWorld] = {}
        self._agents: set[str] = set()
        self._books: dict[str, Lorebook | None] = {}
        self._turns: dict[str, tuple[Turn, ...]] = {}
        self._touched: set[str] = set()
        self._failure: Unavailable | None = None

    def restore(self) -> None:
        """Make the worlds and agents of the store. Raises ``Unavailable`` if that fails."""
        try:
            for world in self._store.worlds():
                self._restore_world(world)
            for definition in self._store.definitions():
                self._run(definition.op, definition.fields)
                if definition.op == "lore.put":
                    kind, _, name = definition.owner.partition(" ")
                    self._books[definition.owner] = self._book_of(kind, name)
            self._agents.update(self._runtime.agents)
            for name, saved in self._store.memories().items():
                agent = self._runtime.get_agent(name)
                agent.memory = Memory.from_value(asdict(saved))
                self._turns[name] = agent.memory.turns()
        except GameAgentError as error:
            raise Unavailable(
                f"the state in {self._store.path} cannot be restored: {error.message}"
            ) from error

    def record(self, request: messages.Request) -> None:
        try:
            self._write(request)
        except Unavailable as error:
            self._failure = self._failure or error

    def touch(self, agent: str) -> None:
        self._touched.add(agent)

    def answer(self, reply: SavedReply, now_s: float) -> None:
        try:
            self._replies.keep(reply, now_s)
        except Unavailable as error:
            self._failure = self._failure or error

    def replies(self, now_s: float) -> list[SavedReply]:
        return self._replies.restore(now_s)

    def commit(self) -> None:
        if self._failure is not None:
            raise self._failure
        for name in self._touched:
            if name in self._runtime.agents:
                self._write_memory(name)
        self._touched.clear()
        self._store.commit()

    def close(self) -> None:
        self._store.close()

    def _write(self, request: messages.Request) -> None:
        match request:
            case messages.WorldPut():
                self._put(request)
                self._write_lore("world", request.world)
            case messages.WorldPatch() | messages.Tick():
                self._patch(request)
            case messages.AgentPut():
                definition = Definition(f"agent {request.agent}", "agent.put", _fields(request))
                self._store.define(definition)
                self._agents.add(request.agent)
                self.touch(request.agent)
                self._write_lore("agent", request.agent)
            case messages.LorePut():
                owner = "world" if request.agent is None else "agent"
                self._write_lore(owner, request.agent or request.world or "")
            case messages.WorldDelete() | messages.AgentDelete():
                self._drop_missing()
            case messages.AgentObserve():
                for name in request.agents or (request.agent or "",):
                    self.touch(name)
            case messages.AgentRewind():
                self.touch(request.agent)
            case _:
                pass

    def _write_lore(self, kind: str, name: str) -> None:
        """Write the lorebook that a world or an agent was given, if it is another than before."""
        owner = f"{kind} {name}"
        book = self._book_of(kind, name)
        if book is self._books.get(owner):
            return
        if book is None:
            self._store.undefine(owner, "lore.put")
        else:
            fields = {kind: name, **book_fields(book)}
            self._store.define(Definition(owner, "lore.put", fields))
        self._books[owner] = book

    def _book_of(self, kind: str, name: str) -> Lorebook | None:
        if kind == "world":
            return self._runtime.get_world(name).lore
        agent = self._runtime.get_agent(name)
        card = agent.persona.card
        # What came with a card comes again with it.
        return None if card is not None and agent.lore is card.lorebook else agent.lore

    def _put(self, request: messages.WorldPut) -> None:
        world = self._runtime.get_world(request.world)
        fields = {k: v for k, v in _fields(request).items() if k not in ("state", "seq")}
        # A request without rules keeps those that the world has.
        fields["partition"] = [rule.to_value() for rule in world.rules]
        self._store.put_world(world.name, fields, world.state, world.seq)
        self._worlds[world.name] = _KnownWorld(fields, world.state, world.seq)

    def _patch(self, request: messages.WorldPatch | messages.Tick) -> None:
        world = self._runtime.get_world(request.world)
        known = self._worlds[world.name]
        if world.seq == known.seq:
            return  # it was repeated, or a tick without a change
        is_merge = request.merge is not None
        content = request.merge if is_merge else request.patch or []
        patch = Patch(world.seq, "merge" if is_merge else "patch", content)
        self._store.add_patch(world.name, known.fields, patch, known.state)
        known.state, known.seq = world.state, world.seq

    def _drop_missing(self) -> None:
        for name in self._worlds.keys() - self._runtime.worlds.keys():
            self._store.delete_world(name)
            del self._worlds[name]
            self._books.pop(f"world {name}", None)
        for name in self._agents - self._runtime.agents.keys():
            self._store.delete_agent(name)
            self._agents.discard(name)
            self._turns.pop(name, None)
            self._books.pop(f"agent {name}", None)

    def _write_memory(self, name: str) -> None:
        """Write the turns that are new or changed, delete those that are gone."""
        memory = self._runtime.get_agent(name).memory
        old, new = self._turns.get(name, ()), memory.turns()
        if name in self._turns and new == old:
            return
        if new[: len(old)] == old:
            added, gone = new[len(old) :], []
        else:
            before = {turn.index: turn for turn in old}
            added = tuple(turn for turn in new if before.get(turn.index) != turn)
            gone = list(before.keys() - {turn.index for turn in new})
        turns = [asdict(turn) for turn in added]
        self._store.put_memory(name, SavedMemory(MEMORY_VERSION, memory.next_index, turns))
        self._store.delete_turns(name, gone)
        self._turns[name] = new

    def _restore_world(self, saved: SavedWorld) -> None:
        # All patches but the last become one state at once; the last is applied to the world, which
        # then knows it if it is sent again.
        state: Any = saved.state
        seq = saved.seq
        for patch in saved.patches[:-1]:
            apply = merge_patch if patch.kind == "merge" else apply_patch
            state, seq = apply(state, patch.content), patch.seq
        self._run("world.put", {**saved.fields, "state": state, "seq": seq})
        world = self._runtime.get_world(saved.name)
        for patch in saved.patches[-1:]:
            _apply(world, patch)
        self._worlds[saved.name] = _KnownWorld(saved.fields, world.state, world.seq)

    def _run(self, op: str, fields: Map) -> None:
        self._operations.run(messages.parse({**fields, "v": VERSION, "id": 0, "op": op}))


def _apply(world: World, patch: Patch) -> None:
    if patch.kind == "merge":
        world.patch(merge=patch.content, seq=patch.seq)
    else:
        world.patch(patch.content, seq=patch.seq)


def _fields(request: messages.Request) -> Map:
    """A request's own fields, as plain values."""
    fields: Map = msgspec.to_builtins(request)
    return {name: value for name, value in fields.items() if name not in ("v", "id", "op")}


def open_journal(runtime: Backend, settings: ServerSettings) -> Journal:
    """The journal that the settings ask for, its worlds and agents restored.

    Raises ``Unavailable`` if the state cannot be used.
    """
    if settings.state_dir is None:
        return NoJournal()
    journal = StateJournal(
        runtime,
        Operations(runtime, settings.limits),
        StateStore(settings.state_dir),
        # A session holds its replies for replay_s of the time in which its client is heard, and
        # waits for it for expiry_ms: of what it knows, the folder must not miss a part.
        settings.replay_s + settings.expiry_ms / 1000,
    )
    try:
        journal.restore()
    except BaseException:
        journal.close()
        raise
    return journal

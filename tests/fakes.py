"""A runtime that needs no model, and a server that needs no socket. Both under a test's control."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonpatch
import msgpack

from game_agent.agents.actions import Action
from game_agent.agents.ask import AskOptions
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.cards import Card
from game_agent.agents.lore import Lorebook
from game_agent.agents.memory import Memory
from game_agent.agents.persona import Persona
from game_agent.agents.question import Act, Choose
from game_agent.agents.rules import Rule
from game_agent.agents.snapshot import Snapshot, write_snapshot
from game_agent.agents.task import Choice, Question
from game_agent.clock import FakeClock
from game_agent.errors import Conflict, InvalidInput, NotFound
from game_agent.protocol.limits import Limits
from game_agent.server.app import App
from game_agent.server.backend import AskListener
from game_agent.server.journal import Journal
from game_agent.server.session import Peer
from game_agent.server.settings import ServerSettings
from game_agent.server.table import SessionTable

FakeUsage = dict[str, int]


@dataclass(frozen=True)
class FakeAnswer:
    text: str
    seq: int
    finish_reason: str
    usage: FakeUsage = field(default_factory=lambda: {"context_tokens": 3, "generated_tokens": 1})
    action: Any = None
    choice: Choice | None = None


@dataclass(frozen=True)
class FakeChange:
    seq: int
    blocks: int
    blocks_changed: int


class FakeWorld:
    def __init__(self, name: str, state: dict[str, Any], seq: int) -> None:
        self.name = name
        self.state = state
        self.seq = seq
        self.lore: Lorebook | None = None
        self.rules: tuple[Rule, ...] = ()
        self._last: tuple[int, Any] | None = None

    @property
    def num_blocks(self) -> int:
        return len(self.state)

    def patch(
        self,
        ops: list[Any] | None = None,
        *,
        merge: dict[str, Any] | None = None,
        seq: int | None = None,
    ) -> FakeChange:
        content = (ops, merge)
        if seq is not None and self._last == (seq, content):
            return FakeChange(self.seq, self.num_blocks, 0)
        if seq is not None and seq != self.seq + 1:
            raise Conflict("there is a gap in seq", expected=self.seq + 1, where="seq")
        state = copy.deepcopy(self.state)
        try:
            state = {**state, **merge} if merge is not None else jsonpatch.apply_patch(state, ops)
        except Exception as error:
            raise InvalidInput(f"the patch does not apply: {error}", where="/0/path") from error
        if not isinstance(state, dict):
            raise InvalidInput("the state must stay a map", where="patch")
        self.state, self.seq = state, self.seq + 1
        self._last = (self.seq, content)
        return FakeChange(self.seq, self.num_blocks, 1)


class FakeAsk:
    """Says ``NAME heard TEXT.`` word by word, a word a step."""

    def __init__(
        self,
        agent: FakeAgent,
        text: str,
        options: AskOptions,
        listener: AskListener,
        question: Question,
    ) -> None:
        self.question = question
        words = f"{agent.name} heard {text}.".split(" ")
        self._words = [word + " " for word in words[:-1]] + words[-1:]
        self._listener = listener
        self._num_said = 0
        self._max_words = options.max_tokens
        self.options = options
        self.done = False
        self._agent = agent
        self._text = text
        self.heard_chars: int | None = None

    def step(self) -> None:
        if self.done:
            return
        self._listener.on_text(self._num_said, self._words[self._num_said])
        self._num_said += 1
        if self._num_said == len(self._words):
            self._end("stop")
        elif self._num_said == self._max_words:
            self._end("length")

    def cancel(self) -> None:
        if not self.done:
            self._end("cancelled")

    def heard(self, num_chars: int) -> None:
        self.heard_chars = num_chars

    def fail(self, error: InvalidInput) -> None:
        self.done = True
        self._listener.on_error(error)

    def _end(self, reason: str) -> None:
        self.done = True
        reply = "".join(self._words[: self._num_said])
        if self.options.remember:
            self._agent.memory.add_turn("Player", self._text, reply)
        choice = None
        if isinstance(self.question, Choose) and reason == "stop":
            first = self.question.options[0]
            choice = Choice(0, first, tuple(-1.0 for _ in self.question.options))
        action = None
        if isinstance(self.question, Act) and reason == "stop":
            action = {"name": "wait", "arguments": {}}
        self._listener.on_done(FakeAnswer(reply, 0, reason, action=action, choice=choice))


class FakeAgent:
    def __init__(self, name: str, runtime: FakeRuntime) -> None:
        self.name = name
        self.speakers: list[str] = []
        self.peers: list[str] = []
        self.num_warmed = 0
        self.is_kept = False
        self.persona = Persona(name, "")
        self.world_name = ""
        self.sees: tuple[str, ...] = ("",)
        self.budget = MemoryBudget()
        self.lore: Lorebook | None = None
        self._runtime = runtime
        self.memory = Memory()

    def observe(self, text: str, game_time: float | None = None, *, pinned: bool = False) -> None:
        self.memory.observe(text, game_time, pinned=pinned)

    @property
    def world(self) -> FakeWorld:
        return self._runtime.get_world(self.world_name)

    def rewind(self, game_time: float) -> int:
        return self.memory.rewind(game_time)

    def inspect(self, text: str | None = None, *, speaker: str = "Player") -> list[dict[str, Any]]:
        said = f"{speaker}: {text}"
        return [{"source": "event", "text": said, "tokens": 3, "cached": False}]

    def history(self, last: int | None = None) -> list[dict[str, Any]]:
        return [
            {"text": turn.text, "game_time": turn.game_time}
            | ({"pinned": True} if turn.pinned else {})
            for turn in self.memory.turns(last)
        ]

    def warm(self, *, keep: bool = False) -> None:
        self.num_warmed += 1
        self.is_kept = keep

    def ask(
        self,
        text: str,
        options: AskOptions,
        *,
        speaker: str,
        peer: str,
        listener: AskListener,
        question: Question,
    ) -> FakeAsk:
        if text == "crash":
            raise RuntimeError("as the test wanted")
        self.speakers.append(speaker)
        self.peers.append(peer)
        ask = FakeAsk(self, text, options, listener, question)
        with self._runtime.lock:
            self._runtime.asks.append(ask)
        if self._runtime.is_instant:
            self._runtime.finish()
        return ask


class FakeRuntime:
    """``step`` lets every ask say one word; ``is_instant``: asks end before ``ask`` returns."""

    model_name = "fake"
    max_context_tokens = 1000
    modes = ("block", "full", "contextual")

    def __init__(self, *, is_instant: bool = False) -> None:
        self.lock = threading.RLock()
        self.is_instant = is_instant
        self.worlds: dict[str, FakeWorld] = {}
        self.agents: dict[str, FakeAgent] = {}
        self.asks: list[FakeAsk] = []

    def step(self) -> None:
        with self.lock:
            for ask in self.asks:
                ask.step()

    def finish(self) -> None:
        with self.lock:
            while any(not ask.done for ask in self.asks):
                self.step()

    def world(
        self,
        name: str,
        state: Mapping[str, Any],
        *,
        seq: int = 0,
        partition: Sequence[Rule] | None = None,
    ) -> FakeWorld:
        world = self.worlds[name] = FakeWorld(name, dict(state), seq)
        world.rules = tuple(partition or ())
        return world

    def get_world(self, name: str) -> FakeWorld:
        if name not in self.worlds:
            raise NotFound(f"there is no world {name!r}", where="world")
        return self.worlds[name]

    def remove_world(self, name: str) -> None:
        self.get_world(name)
        del self.worlds[name]

    def agent(
        self,
        name: str,
        *,
        world: str,
        profile: str | Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        sees: Collection[str] = ("",),
        instructions: str = "",
        memory_tokens: int | None = None,
        recall: int = 0,
        summarize: bool = False,
        actions: Sequence[Action] = (),
    ) -> FakeAgent:
        self.get_world(world)
        agent = self.agents.setdefault(name, FakeAgent(name, self))
        card = None if card is None else Card(card)
        agent.persona = Persona(name, profile, card, instructions, tuple(actions))
        agent.world_name, agent.sees = world, tuple(sees)
        agent.budget = MemoryBudget(memory_tokens, recall, summarize)
        return agent

    def get_agent(self, name: str) -> FakeAgent:
        if name not in self.agents:
            raise NotFound(f"there is no agent {name!r}", where="agent")
        return self.agents[name]

    def remove_agent(self, name: str) -> None:
        self.get_agent(name)
        del self.agents[name]

    def save(self, world: str) -> bytes:
        agents = [agent for agent in self.agents.values() if agent.world_name == world]
        return write_snapshot(self.get_world(world), agents)  # type: ignore[arg-type]

    def restore(self, saved: Snapshot) -> FakeWorld:
        world = self.world(saved.world, saved.state, seq=saved.seq)
        world.lore = saved.lore
        for name in [a.name for a in self.agents.values() if a.world_name == world.name]:
            del self.agents[name]
        for one in saved.agents:
            agent = self.agents[one.persona.name] = FakeAgent(one.persona.name, self)
            agent.world_name, agent.sees, agent.budget = world.name, one.sees, one.budget
            agent.persona, agent.memory, agent.lore = one.persona, one.memory, one.lore
        return world

    def stats(self) -> dict[str, Any]:
        return {"num_asks": len(self.asks)}


class Desk:
    """An ``App`` with a fake clock and no sockets: maps in, maps out.

    The world ``w`` (``{"a": 1}``) and the agents ``ann`` and ``bob`` are there.
    """

    def __init__(self, limits: Limits | None = None, *, is_instant: bool = False) -> None:
        self.clock = FakeClock(1000.0)
        self.runtime = FakeRuntime(is_instant=is_instant)
        self.runtime.world("w", {"a": 1})
        for name in ("ann", "bob"):
            self.runtime.agent(name, world="w", profile="")
        self.settings = ServerSettings(limits=limits or Limits())
        self.sessions = SessionTable(self.settings, self.clock)
        self.posted: list[Callable[[], None]] = []
        self.use(self.runtime)

    def use(self, runtime: FakeRuntime, journal: Journal | None = None) -> None:
        """Serve another runtime, and tell a journal of it."""
        self.runtime = runtime
        self.app = App(
            *(runtime, self.sessions, self.settings, self.clock, self.posted.append, journal)
        )

    def send(self, peer: str = "p", /, *, is_req: bool = False, **fields: Any) -> None:
        """Let a peer send a request; ``v`` is put in."""
        fields = {"v": 1, **fields}
        self.send_frames([msgpack.packb(fields)], peer, is_req=is_req)

    def send_frames(self, frames: list[bytes], peer: str = "p", *, is_req: bool = False) -> None:
        refusal = self.app.receive(Peer(peer.encode(), is_req), frames)
        self.refusal = None if refusal is None else msgpack.unpackb(refusal)

    def read(self, peer: str = "p") -> list[dict[str, Any]]:
        """All that the peer has not read yet."""
        self.run_posted()
        session = self.sessions.of_peer(Peer(peer.encode()))
        out = []
        while (frame := session.peek()) is not None:
            session.sent()
            out.append(msgpack.unpackb(frame))
        return out

    def ask_for(self, peer: str = "p", /, **fields: Any) -> dict[str, Any]:
        """Send a request and read its one reply."""
        self.send(peer, **fields)
        (reply,) = self.read(peer)
        return reply

    def step(self) -> None:
        self.runtime.step()
        self.run_posted()

    def run_posted(self) -> None:
        while self.posted:
            self.posted.pop(0)()


def an_ask(request_id: Any, agent: str = "ann", **fields: Any) -> dict[str, Any]:
    """One of the asks of a tick."""
    return {"id": request_id, "agent": agent, "event": "hi", **fields}


def brief(reply: dict[str, Any]) -> tuple[Any, ...]:
    """What matters of a terminal reply."""
    return (reply["id"], reply["ev"], reply.get("code"), reply.get("where"))

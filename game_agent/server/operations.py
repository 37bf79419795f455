"""The operations that are answered at once: a request in, the fields of its ``ok`` out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

from game_agent.agents.actions import parse_actions
from game_agent.agents.ask import AskOptions
from game_agent.agents.lore import Lorebook
from game_agent.agents.question import SAY, Act, Choose
from game_agent.agents.rules import parse_rules
from game_agent.agents.task import Question
from game_agent.errors import InvalidInput, TooLarge
from game_agent.protocol import messages
from game_agent.protocol.codec import Map
from game_agent.protocol.limits import Limits
from game_agent.server.backend import Agent, Backend, World, WorldChange

DEFAULT_SPEAKER = "Player"

# Fields that only one kind of ask has.
_FIELD_OF = {"schema": "act", "options": "choose", "normalize": "choose", "stream": "say"}
_Operation = Callable[[Any], Map]


class Heard(NamedTuple):
    """An event's text, and who said it (None if nobody in particular)."""

    text: str
    speaker: str | None


class Operations:
    """Requests about worlds and agents, carried out on a runtime.

    Each raises ``InvalidInput`` (``where`` is the field), ``Conflict``, ``TooLarge`` or
    ``NotFound``; then nothing was changed.
    """

    def __init__(self, runtime: Backend, limits: Limits) -> None:
        self._runtime = runtime
        self._limits = limits
        self._by_type: dict[type[messages.Request], _Operation] = {
            messages.WorldPut: self._world_put,
            messages.WorldPatch: self._world_patch,
            messages.WorldGet: self._world_get,
            messages.WorldDelete: self._world_delete,
            messages.LorePut: self._lore_put,
            messages.AgentPut: self._agent_put,
            messages.AgentGet: self._agent_get,
            messages.AgentDelete: self._agent_delete,
            messages.AgentObserve: self._agent_observe,
            messages.AgentWarm: self._agent_warm,
            messages.AgentInspect: self._agent_inspect,
            messages.AgentRewind: self._agent_rewind,
            messages.AgentHistory: self._agent_history,
        }

    def run(self, request: messages.Request) -> Map:
        """Carry out ``request``; return the fields of its reply."""
        return self._by_type[type(request)](request)

    def tick(self, request: messages.Tick) -> Map:
        """Apply a tick's change; its asks are not looked at."""
        world = self._runtime.get_world(request.world)
        if request.patch is not None or request.merge is not None:
            change = _change(world, request)
        elif request.seq is not None:
            change = world.patch([], seq=request.seq)
        else:
            return {"tick": request.tick, "seq": world.seq, "blocks_changed": 0}
        return {
            "tick": request.tick,
            "seq": change.seq,
            "blocks_changed": change.blocks_changed,
        }

    def _world_put(self, request: messages.WorldPut) -> Map:
        _check_room("worlds", request.world, self._runtime.worlds, self._limits.max_worlds)
        with paths_from("partition"):
            rules = None if request.partition is None else parse_rules(request.partition)
        with paths_from("state"):
            world = self._runtime.world(
                request.world, request.state, seq=request.seq, partition=rules
            )
        return {"seq": world.seq, "blocks": world.num_blocks}

    def _world_patch(self, request: messages.WorldPatch) -> Map:
        change = _change(self._runtime.get_world(request.world), request)
        return {
            "seq": change.seq,
            "blocks": change.blocks,
            "blocks_changed": change.blocks_changed,
        }

    def _world_get(self, request: messages.WorldGet) -> Map:
        world = self._runtime.get_world(request.world)
        return {"state": world.state, "seq": world.seq}

    def _world_delete(self, request: messages.WorldDelete) -> Map:
        self._runtime.remove_world(request.world)
        return {}

    def _lore_put(self, request: messages.LorePut) -> Map:
        _one_of(world=request.world, agent=request.agent)
        owner: World | Agent
        if request.world is not None:
            owner = self._runtime.get_world(request.world)
        else:
            owner = self._runtime.get_agent(request.agent or "")
        names = ("entries", "scan_depth", "token_budget", "recursive_scanning")
        with paths_from(""):
            owner.lore = book = Lorebook({name: getattr(request, name) for name in names})
        return {"entries": book.num_entries, "blocks": len(book.entries)}

    def _agent_put(self, request: messages.AgentPut) -> Map:
        with paths_from("actions"):
            actions = parse_actions(request.actions or [])
        _one_of(profile=request.profile, card=request.card)
        _check_room("agents", request.agent, self._runtime.agents, self._limits.max_agents)
        with paths_from("profile" if request.card is None else "card"):
            self._runtime.agent(
                request.agent,
                world=request.world,
                profile=request.profile,
                card=request.card,
                sees=request.sees,
                instructions=request.instructions,
                memory_tokens=request.memory_tokens,
                recall=request.recall,
                summarize=request.summarize,
                actions=actions,
            )
        return {}

    def _agent_get(self, request: messages.AgentGet) -> Map:
        return {"agent": self._runtime.get_agent(request.agent).name}

    def _agent_delete(self, request: messages.AgentDelete) -> Map:
        self._runtime.remove_agent(request.agent)
        return {}

    def _agent_observe(self, request: messages.AgentObserve) -> Map:
        _one_of(agent=request.agent, agents=request.agents)
        names = request.agents if request.agents is not None else (request.agent or "",)
        # All are looked up first, so that one unknown name leaves no memory changed.
        agents: list[Agent] = [self._runtime.get_agent(name) for name in names]
        heard = read_event(request.event)
        text = f"{heard.speaker}: {heard.text}" if heard.speaker else heard.text
        for agent in agents:
            agent.observe(text, request.game_time, pinned=request.pin)
        return {}

    def _agent_warm(self, request: messages.AgentWarm) -> Map:
        self._runtime.get_agent(request.agent).warm(keep=request.keep)
        return {}

    def _agent_inspect(self, request: messages.AgentInspect) -> Map:
        agent = self._runtime.get_agent(request.agent)
        if request.event is None:
            return {"blocks": agent.inspect()}
        heard = read_event(request.event)
        speaker = heard.speaker or DEFAULT_SPEAKER
        return {"blocks": agent.inspect(heard.text, speaker=speaker)}

    def _agent_rewind(self, request: messages.AgentRewind) -> Map:
        agent = self._runtime.get_agent(request.agent)
        return {"forgotten": agent.rewind(request.game_time)}

    def _agent_history(self, request: messages.AgentHistory) -> Map:
        return {"turns": self._runtime.get_agent(request.agent).history(request.last)}


def ask_options(request: messages.Ask, modes: Sequence[str]) -> AskOptions:
    """The settings of an ask, for a runtime that has ``modes``. Raises ``InvalidInput``."""
    if request.mode is not None and request.mode not in modes:
        raise InvalidInput(f"mode must be one of {', '.join(modes)}", where="mode")
    return AskOptions(**{field.name: getattr(request, field.name) for field in fields(AskOptions)})


def ask_question(request: messages.Ask) -> Question:
    """What kind of question an ask is. Raises ``InvalidInput`` for fields of another kind."""
    for name, kind in _FIELD_OF.items():
        if getattr(request, name) not in (None, False) and kind != request.kind:
            message = f"{name} belongs to an ask of kind {kind}, not {request.kind}"
            raise InvalidInput(message, where=name)
    if request.kind == "choose":
        with paths_from("options"):
            return Choose(request.options or (), bool(request.normalize))
    return Act(schema=request.schema) if request.kind == "act" else SAY


def read_event(event: str | messages.Event) -> Heard:
    """The wire's two spellings of an event as one."""
    return Heard(event, None) if isinstance(event, str) else Heard(event.text, event.speaker)


def _change(world: World, request: messages.WorldPatch | messages.Tick) -> WorldChange:
    _one_of(patch=request.patch, merge=request.merge)
    with paths_from("merge" if request.patch is None else "patch"):
        return world.patch(request.patch, merge=request.merge, seq=request.seq)


@contextmanager
def paths_from(field: str) -> Iterator[None]:
    """Turn an error's JSON Pointer inside ``field`` ("": the message) into a path."""
    try:
        yield
    except InvalidInput as error:
        where = error.where or field
        path = field + where if where.startswith("/") else where
        error.where = path.removeprefix("/").replace("/", ".")
        raise


def _one_of(**given: object) -> None:
    names = " and ".join(given)
    if sum(value is not None for value in given.values()) != 1:
        raise InvalidInput(f"exactly one of {names} is needed", where=next(iter(given)))


def _check_room(kind: str, name: str, present: Collection[str], limit: int) -> None:
    if name not in present and len(present) >= limit:
        raise TooLarge(
            f"there are {limit} {kind} already, the limit; delete one first",
            where=kind.removesuffix("s"),
        )

"""Worlds and their agents, by name."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from game_agent.agents.actions import Action, parse_actions
from game_agent.agents.agent import Agent
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.cards import Card
from game_agent.agents.eager import EagerEncoding
from game_agent.agents.persona import Persona
from game_agent.agents.pointer import Json
from game_agent.agents.rules import Rule, parse_rules
from game_agent.agents.scene import Scene
from game_agent.agents.snapshot import Snapshot, read_snapshot, write_snapshot
from game_agent.agents.world import World
from game_agent.clock import Clock
from game_agent.engine import Engine
from game_agent.engine.request import Mode
from game_agent.errors import InvalidInput, NotFound


class Roster:
    """All that lives on one engine, under one lock. Safe to use from any thread."""

    def __init__(self, engine: Engine, clock: Clock, default_mode: Mode, *, eager: bool) -> None:
        self.lock = threading.RLock()
        self.engine = engine
        self._clock = clock
        self._cache = BlockCache(engine.runner.encoder)
        self._default_mode = default_mode
        self._eager = EagerEncoding(engine, self._cache, self.lock) if eager else None
        self._worlds: dict[str, World] = {}
        self._agents: dict[str, Agent] = {}

    @property
    def worlds(self) -> Mapping[str, World]:
        return MappingProxyType(self._worlds)

    @property
    def agents(self) -> Mapping[str, Agent]:
        return MappingProxyType(self._agents)

    def world(
        self,
        name: str,
        state: Mapping[str, Json],
        *,
        seq: int = 0,
        partition: Sequence[Json | Rule] | None = None,
    ) -> World:
        """A world of that name and state; an existing one gets the state and keeps its agents.

        partition: rules for how it is cut (see :class:`Rule`); None: no rules, or those it has

        Raises :class:`InvalidInput` when the state is not a JSON object, or a rule is wrong.
        """
        rules = None if partition is None else parse_rules(partition)
        with self.lock:
            world = self._worlds.get(name)
            if world is None:
                world = self._worlds[name] = World(
                    name, state, seq, rules=rules or (), lock=self.lock
                )
                if self._eager is not None:
                    self._eager.watch(world)
            else:
                world.put(state, seq, rules)
            return world

    def get_world(self, name: str) -> World:
        """Raises :class:`NotFound`."""
        try:
            return self._worlds[name]
        except KeyError:
            raise NotFound(f"there is no world {name!r}", where="world") from None

    def remove_world(self, name: str) -> None:
        """Remove a world and its agents. Raises :class:`NotFound`."""
        with self.lock:
            world = self.get_world(name)
            for agent in self._agents_of(world):
                self.remove_agent(agent.name)
            del self._worlds[name]

    def agent(
        self,
        name: str,
        *,
        world: World | str,
        profile: str | Mapping[str, Any] | None = None,
        card: Card | Mapping[str, Any] | None = None,
        sees: Collection[str] = ("",),
        instructions: str = "",
        memory_tokens: int | None = None,
        recall: int = 0,
        summarize: bool = False,
        actions: Sequence[Action | Json] = (),
    ) -> Agent:
        """An agent of that name; an existing one is changed and keeps its memory.

        profile:       text or fields; or ``card``, a Character Card, which brings its own name and
                       lorebook
        sees:          JSON Pointers to the parts of the world that it knows, in which ``*`` is any
                       one key or index and ``**`` any number of them; ``""`` is everything
        memory_tokens: most tokens of remembered turns in a prompt; None: as many as fit
        recall:        how many turns that are too old for the prompt come back when a question is
                       about them
        summarize:     have the model sum up in idle time what is too old for the prompt
        actions:       what it can do when it is asked to ``act``, see :class:`Action`

        Raises :class:`NotFound` (world), :class:`InvalidInput` (profile, card, sees, actions).
        """
        budget = MemoryBudget(memory_tokens, recall, summarize)
        if card is not None and not isinstance(card, Card):
            card = Card(card)
        persona = Persona(name, profile, card, instructions, parse_actions(actions))
        self._check_actions(persona.actions)
        with self.lock:
            home = self.get_world(world) if isinstance(world, str) else world
            agent = self._put_agent(persona, home, sees)
            agent.budget = budget
            if card is not None and card.lorebook is not None:
                agent.lore = card.lorebook
            return agent

    def _check_actions(self, actions: tuple[Action, ...]) -> None:
        """Raises :class:`InvalidInput` for a parameter whose JSON Schema cannot be kept."""
        for index, action in enumerate(actions):
            schema = action.schema(None)
            assert schema is not None, "without a world nothing is missing in it"
            self.engine.grammars.compile(schema, f"actions/{index}/parameters")

    def _put_agent(self, persona: Persona, world: World, sees: Collection[str]) -> Agent:
        agent = self._agents.get(persona.name)
        if agent is not None:
            agent.update(persona, world, sees)
            return agent
        agent = self._agents[persona.name] = Agent(
            persona,
            world,
            sees,
            self.engine,
            self._cache,
            self.lock,
            self._clock,
            self._default_mode,
        )
        return agent

    def get_agent(self, name: str) -> Agent:
        """Raises :class:`NotFound`."""
        try:
            return self._agents[name]
        except KeyError:
            raise NotFound(f"there is no agent {name!r}", where="agent") from None

    def remove_agent(self, name: str) -> None:
        """Remove an agent; its open questions end as cancelled. Raises :class:`NotFound`."""
        with self.lock:
            self.get_agent(name).close()
            del self._agents[name]

    def scene(self, *agents: Agent | str) -> Scene:
        """A scene in which these agents hear each other. Raises :class:`NotFound`."""
        return Scene(self.get_agent(a) if isinstance(a, str) else a for a in agents)

    def save(self, world: World | str) -> bytes:
        """A world and its agents as a value for a game's save file: UTF-8 JSON, text only.

        Raises :class:`NotFound`.
        """
        with self.lock:
            home = self.get_world(world) if isinstance(world, str) else world
            return write_snapshot(home, self._agents_of(home))

    def restore(self, saved: bytes | Snapshot) -> World:
        """The world and the agents of a save, as they were; open questions end unremembered.

        A world or an agent of the same name becomes what it was; agents of that world which the
        save does not have are removed. All or nothing: raises :class:`InvalidInput` for what is no
        save, and where an agent of the save lives in another world.
        """
        snapshot = saved if isinstance(saved, Snapshot) else read_snapshot(saved)
        with self.lock:
            self._check_homes(snapshot)
            world = self.world(
                snapshot.world, snapshot.state, seq=snapshot.seq, partition=snapshot.rules
            )
            world.lore = snapshot.lore
            names = {agent.persona.name for agent in snapshot.agents}
            for agent in self._agents_of(world):
                agent.abandon()
                if agent.name not in names:
                    self.remove_agent(agent.name)
            for saved_agent in snapshot.agents:
                agent = self._put_agent(saved_agent.persona, world, saved_agent.sees)
                agent.memory = saved_agent.memory
                agent.lore = saved_agent.lore
                agent.budget = saved_agent.budget
            return world

    def _agents_of(self, world: World) -> list[Agent]:
        return [agent for agent in self._agents.values() if agent.world is world]

    def _check_homes(self, snapshot: Snapshot) -> None:
        for index, saved in enumerate(snapshot.agents):
            agent = self._agents.get(saved.persona.name)
            if agent is not None and agent.world.name != snapshot.world:
                raise InvalidInput(
                    f"the agent {agent.name!r} of the save lives in the world "
                    f"{agent.world.name!r} now; remove it there first",
                    where=f"/agents/{index}/name",
                )

"""The facade: one object that holds a model, its engine, worlds and agents."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from game_agent.agents.actions import Action, parse_actions
from game_agent.agents.agent import Agent
from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.cards import Card
from game_agent.agents.eager import EagerEncoding
from game_agent.agents.patch import Json
from game_agent.agents.persona import Persona
from game_agent.agents.rules import Rule, parse_rules
from game_agent.agents.scene import Scene
from game_agent.agents.snapshot import Snapshot, read_snapshot, write_snapshot
from game_agent.agents.world import World
from game_agent.clock import Clock, SystemClock
from game_agent.config import CacheSettings, EngineSettings
from game_agent.engine import Engine
from game_agent.engine.request import MODES, Mode
from game_agent.errors import InvalidInput, NotFound
from game_agent.model.checkpoint import resolve
from game_agent.model.runner import ModelRunner, load_runner


class Runtime:
    """Worlds and agents on one model. Safe to use from any thread.

    ``with Runtime.load() as runtime: …`` closes it at the end.
    """

    modes: tuple[Mode, ...] = MODES

    def __init__(
        self,
        runner: ModelRunner,
        settings: EngineSettings | None = None,
        *,
        default_mode: Mode = "block",
        eager: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.engine = Engine(runner, settings, clock)
        self._clock = clock or SystemClock()
        self._cache = BlockCache(runner.encoder)
        self._default_mode = default_mode
        self._eager = EagerEncoding(self.engine, self._cache, self.lock) if eager else None
        self._worlds: dict[str, World] = {}
        self._agents: dict[str, Agent] = {}

    @staticmethod
    def load(
        folder: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        weights: str | None = None,
        kv_dtype: str | None = None,
        settings: EngineSettings | None = None,
        prompt_format: str | None = None,
        prompt_prefix: str = "",
        backend: str | None = None,
        default_mode: Mode = "block",
        eager: bool = False,
        kv_cache: str | os.PathLike[str] | CacheSettings | None = None,
        sink: str | None = None,
    ) -> Runtime:
        """Load a checkpoint folder or Hub id; None is the bundled model.

        device: "cpu", "cuda", …; None is this machine's best. dtype: "float32", "bfloat16",
        "float16"; None is float32 on a CPU and bfloat16 elsewhere. weights: "int8" rounds them to
        8 bits. kv_dtype: "bfloat16" halves what cached text takes on a CPU. default_mode: "block"
        for models that were block-fine-tuned, "full" for others, "contextual" for others where a
        small loss of fidelity is a fair price for speed after changes. eager: encode what changes
        in a world while nobody waits, instead of with the next question (block mode).

        sink: a text that begins every prompt of block mode and that all its blocks are encoded
        behind; it may help models that were not block-fine-tuned.

        kv_cache: a folder that keeps encoded blocks, so that they are there after a restart; or
        :class:`CacheSettings`, for its size and for tiers in memory.

        prompt_format, prompt_prefix: see docs/prompt-formats.md; None chooses.

        Raises :class:`ModelError` for a folder that cannot be used.
        """
        if default_mode not in MODES:
            raise InvalidInput(f"default_mode must be one of {', '.join(MODES)}")
        settings = settings or EngineSettings()
        if kv_cache is not None:
            if not isinstance(kv_cache, CacheSettings):
                kv_cache = CacheSettings(Path(kv_cache))
            settings = replace(settings, kv_cache=kv_cache)
        runner = load_runner(
            bundled_folder() if folder is None else resolve(folder),
            kv_memory_bytes=settings.kv_memory_bytes,
            device=device,
            dtype=dtype,
            weights=weights,
            kv_dtype=kv_dtype,
            prompt_format=prompt_format,
            prompt_prefix=prompt_prefix,
            backend=backend,
            sink=sink,
        )
        return Runtime(runner, settings, default_mode=default_mode, eager=eager)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def touch_memory(self) -> None:
        """Have the system back all of the KV memory now, in the background.

        For programs that live long enough to use it all: first writes to fresh memory would
        otherwise hold up questions. Loading touches the first 256 MiB. Linux only.
        """
        self.engine.runner.touch_memory()

    def close(self) -> None:
        """Stop the engine; open questions end as cancelled."""
        self.engine.close()

    @property
    def model_name(self) -> str:
        return self.engine.runner.name

    @property
    def max_context_tokens(self) -> int:
        return self.engine.runner.max_context_tokens

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

    def stats(self) -> dict[str, object]:
        """Counters, latency quantiles and cache figures, as plain values."""
        pool, store, tiers = self.engine.runner.pool, self.engine.store, self.engine.tiers
        return {
            **self.engine.metrics.snapshot(),
            "worlds": len(self._worlds),
            "agents": len(self._agents),
            "blocks": len(store),
            "pages": pool.num_pages,
            "pages_free": pool.num_free,
            "blocks_evicted": store.num_evicted,
            **({} if tiers is None else tiers.figures()),
        }


def bundled_folder() -> Path:
    """The model that comes with the package."""
    return Path(str(files("game_agent"))) / "data" / "bundled"

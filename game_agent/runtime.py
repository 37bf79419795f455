"""The facade: one object that holds a model, its engine, worlds and agents."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from game_agent.agents.agent import Agent
from game_agent.agents.character import Character
from game_agent.agents.patch import Json
from game_agent.agents.prompt import BlockCache
from game_agent.agents.world import World
from game_agent.clock import Clock, SystemClock
from game_agent.config import EngineSettings
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
        clock: Clock | None = None,
    ) -> None:
        self.lock = threading.RLock()
        self.engine = Engine(runner, settings, clock)
        self._clock = clock or SystemClock()
        self._cache = BlockCache(runner.encoder)
        self._default_mode = default_mode
        self._worlds: dict[str, World] = {}
        self._agents: dict[str, Agent] = {}

    @staticmethod
    def load(
        folder: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        settings: EngineSettings | None = None,
        prompt_format: str | None = None,
        backend: str | None = None,
        default_mode: Mode = "block",
    ) -> Runtime:
        """Load a checkpoint folder or Hub id; None is the bundled model.

        device: "cpu", "cuda", …; None is this machine's best. dtype: "float32", "bfloat16",
        "float16"; None is float32 on a CPU and bfloat16 elsewhere. default_mode: "block" for models
        that were block-fine-tuned, "full" for others.

        Raises :class:`ModelError` for a folder that cannot be used.
        """
        if default_mode not in MODES:
            raise InvalidInput(f"default_mode must be one of {', '.join(MODES)}")
        settings = settings or EngineSettings()
        runner = load_runner(
            bundled_folder() if folder is None else resolve(folder),
            kv_memory_bytes=settings.kv_memory_bytes,
            device=device,
            dtype=dtype,
            prompt_format=prompt_format,
            backend=backend,
        )
        return Runtime(runner, settings, default_mode=default_mode)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def world(self, name: str, state: Mapping[str, Json], *, seq: int = 0) -> World:
        """A world of that name and state; an existing one gets the state and keeps its agents.

        Raises :class:`InvalidInput` when the state is not a JSON object.
        """
        with self.lock:
            world = self._worlds.get(name)
            if world is None:
                world = self._worlds[name] = World(name, state, seq=seq, lock=self.lock)
            else:
                world.put(state, seq)
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
            for agent in [a for a in self._agents.values() if a.world is world]:
                self.remove_agent(agent.name)
            del self._worlds[name]

    def agent(
        self,
        name: str,
        *,
        world: World | str,
        profile: str | Mapping[str, Any],
        sees: Collection[str] = ("",),
        instructions: str = "",
    ) -> Agent:
        """An agent of that name; an existing one is changed and keeps its memory.

        sees: JSON Pointers to the parts of the world that it knows; ``""`` is everything.
        Raises :class:`NotFound` (world), :class:`InvalidInput` (profile, sees).
        """
        with self.lock:
            home = self.get_world(world) if isinstance(world, str) else world
            character = Character(name, profile, instructions)
            agent = self._agents.get(name)
            if agent is None:
                agent = self._agents[name] = Agent(
                    character,
                    home,
                    sees,
                    self.engine,
                    self._cache,
                    self.lock,
                    self._clock,
                    self._default_mode,
                )
            else:
                agent.update(character, home, sees)
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

    def stats(self) -> dict[str, object]:
        """Counters, latency quantiles and cache figures, as plain values."""
        pool, store = self.engine.runner.pool, self.engine.store
        return {
            **self.engine.metrics.snapshot(),
            "worlds": len(self._worlds),
            "agents": len(self._agents),
            "blocks": len(store),
            "pages": pool.num_pages,
            "pages_free": pool.num_free,
            "blocks_evicted": store.num_evicted,
        }


def bundled_folder() -> Path:
    """The model that comes with the package."""
    return Path(str(files("game_agent"))) / "data" / "bundled"

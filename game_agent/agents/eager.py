"""Blocks of changed worlds made ready while nobody waits for an answer."""

from __future__ import annotations

import threading

from game_agent.agents.blockcache import BlockCache
from game_agent.agents.nodes import Part
from game_agent.agents.world import World
from game_agent.blocks.block import Block, block_key
from game_agent.engine import Engine


class EagerEncoding:
    """Remembers which texts of which worlds are new, and hands them to the engine's idle time.

    The engine asks again before each of its idle steps, so a text that was superseded meanwhile is
    never encoded, and neither is what no agent sees.
    """

    def __init__(self, engine: Engine, cache: BlockCache, lock: threading.RLock) -> None:
        self._engine = engine
        self._cache = cache
        self._lock = lock
        self._new: dict[World, set[str]] = {}
        engine.set_idle_source(self._blocks)

    def watch(self, world: World) -> None:
        """From now on, take up what changes in ``world``."""
        world.on_change = lambda texts: self._changed(world, texts)

    def _changed(self, world: World, texts: set[str]) -> None:
        with self._lock:
            self._new.setdefault(world, set()).update(texts)
        self._engine.poke()

    def _blocks(self) -> list[Block]:
        with self._lock:
            out = []
            for world, texts in list(self._new.items()):
                wanted = [part for part in world.parts(world.seen) if part.text in texts]
                missing = [(part, block) for part, block in map(self._made, wanted) if block]
                out += [block for _, block in missing]
                if missing:
                    self._new[world] = {part.text for part, _ in missing}
                else:
                    del self._new[world]
            return out

    def _made(self, part: Part) -> tuple[Part, Block | None]:
        """The part's block, None if it is in the store already."""
        block = self._cache.block(part.text, f"world:{part.path}")
        key = block_key(self._engine.runner.digest, block)
        return part, None if key in self._engine.store else block

"""What is approximate in contextual mode, made exact while nobody waits."""

from __future__ import annotations

import numpy as np

from game_agent.blocks.store import BlockStore
from game_agent.engine.contextual import ContextualCache
from game_agent.engine.idle import first_blocks
from game_agent.engine.request import Request


class RefreshQueue:
    """Agents' caches that may hold something approximate; the one refreshed longest ago is next.

    A refresh goes from the front of the prompt to its end, a few blocks at a time: what stands
    before a block has to be exact before it can be.
    """

    def __init__(self) -> None:
        self._caches: dict[ContextualCache, None] = {}

    def __bool__(self) -> bool:
        return bool(self._caches)

    def add(self, cache: ContextualCache) -> None:
        """``cache`` has a new prompt, or was refreshed in part."""
        self._caches[cache] = None

    def take(self, store: BlockStore, max_tokens: int) -> Request | None:
        """The next refresh, of about ``max_tokens``; None when everything is exact.

        Its cache is out of the queue until it is added again.
        """
        while self._caches:
            cache = next(iter(self._caches))
            del self._caches[cache]
            first = cache.stale(store)
            if first is not None:
                return _request(cache, first, max_tokens)
        return None


def _request(cache: ContextualCache, first: int, max_tokens: int) -> Request:
    present = [version.block for version in cache.versions[first:] if version is not None]
    renewed, _ = first_blocks(present, max_tokens)
    before = [version.block for version in cache.versions[:first] if version is not None]
    return Request(
        (*before, *renewed),
        np.empty(0, np.int32),
        mode="contextual",
        max_tokens=0,
        priority=-1,
        is_idle=True,
        contextual=cache,
        renewed=range(first, first + len(renewed)),
    )

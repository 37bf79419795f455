"""What agents keep in the KV memory, and that they let go of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from game_agent.config import EngineSettings
from game_agent.errors import TooLarge
from game_agent.runtime import Runtime

MEMORY = EngineSettings(kv_memory_bytes=2**20)  # 2,048 tokens of the tiny model


def load(checkpoint: Path, mode: Any = "block") -> Runtime:
    runtime = Runtime.load(checkpoint, settings=MEMORY, default_mode=mode)
    places = {f"place {i}": f"Number {i} is a bench. " * 8 for i in range(3)}
    runtime.world("w", {"places": places})
    return runtime


def crowd_out(runtime: Runtime) -> None:
    """Evict all that may be evicted."""
    store = runtime.engine.store
    store.free(store.allocate(store.num_available_pages))


def cached(runtime: Runtime, name: str) -> list[object]:
    return [block["cached"] for block in runtime.agents[name].inspect()]


@pytest.mark.parametrize("mode", ["block", "full"])
def test_a_profile_stays_and_the_rest_may_go(tiny_checkpoint: Path, mode: str) -> None:
    with load(tiny_checkpoint, mode) as runtime:
        ann = runtime.agent("ann", world="w", profile="Ann sells bread.")
        ann.warm().wait()
        assert all(cached(runtime, "ann"))
        crowd_out(runtime)
        assert cached(runtime, "ann") == [True] + [False] * (len(cached(runtime, "ann")) - 1)
        runtime.agent("ann", world="w", profile="Ann sells shoes.")
        crowd_out(runtime)
        assert len(runtime.engine.store) == 0


@pytest.mark.parametrize("mode", ["block", "full"])
def test_an_agent_that_is_kept_stays_until_it_is_warmed_or_removed(
    tiny_checkpoint: Path, mode: str
) -> None:
    with load(tiny_checkpoint, mode) as runtime:
        ann = runtime.agent("ann", world="w", profile="Ann sells bread.")
        for _ in range(2):
            ann.warm(keep=True).wait()
            crowd_out(runtime)
            assert all(cached(runtime, "ann"))
        ann.warm().wait()
        crowd_out(runtime)
        assert len(runtime.engine.store) == 1
        ann.warm(keep=True).wait()
        runtime.remove_agent("ann")
        crowd_out(runtime)
        assert len(runtime.engine.store) == 0


def test_what_is_kept_leaves_half_of_the_memory(tiny_checkpoint: Path) -> None:
    with load(tiny_checkpoint) as runtime:
        ann = runtime.agent("ann", world="w", profile="Ann sells bread.")
        ann.warm(keep=True).wait()
        num_kept = len(runtime.engine.store)
        bread = {f"loaf {i}": f"Loaf {i} is {i} days old. " * 5 for i in range(8)}
        runtime.get_world("w").patch([{"op": "add", "path": "/bread", "value": bread}])
        with pytest.raises(TooLarge, match="more than half of the KV memory"):
            ann.warm(keep=True)
        # What was kept before is kept still.
        crowd_out(runtime)
        assert len(runtime.engine.store) == num_kept > 1


def test_contextual_blocks_are_not_pinned(tiny_checkpoint: Path) -> None:
    with load(tiny_checkpoint, "contextual") as runtime:
        ann = runtime.agent("ann", world="w", profile="Ann sells bread.")
        ann.warm(keep=True).wait()
        crowd_out(runtime)
        assert not any(cached(runtime, "ann"))

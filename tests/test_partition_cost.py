"""A patch costs what it touches, in worlds of any size: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from game_agent.agents.world import World

CHARS_PER_TOKEN = 4  # of English text, about
STORY = "It stands by the old road, and few remember who built it or why they left again. "


def district(number: int) -> dict[str, Any]:
    """About 2,000 tokens."""
    houses = {
        f"house {i}": {
            "keeper": f"person {number * 40 + i}",
            "rooms": i % 7,
            "story": STORY * 2,
            "stock": {"ale": i % 11, "bread": i % 5},
        }
        for i in range(32)
    }
    guards = [{"id": i, "post": f"gate {i % 4}", "note": STORY} for i in range(12)]
    return {"houses": houses, "guards": guards, "weather": "rain"}


def world_of(num_tokens: int) -> World:
    world = World("land", {"day": 1})
    number = 0
    districts: dict[str, Any] = {}
    while sum(len(part.text) for part in world.partition.parts) < num_tokens * CHARS_PER_TOKEN:
        districts |= {f"district {number + i}": district(number + i) for i in range(5)}
        number += 5
        world.put({"day": 1, "districts": districts})
    return world


@pytest.fixture(scope="module")
def worlds() -> dict[int, World]:
    return {num_tokens: world_of(num_tokens) for num_tokens in (10_000, 100_000)}


def num_calls(action: Callable[[], object]) -> int:
    """Python functions that ``action`` calls."""
    count = 0

    def called(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


HOUSE = "/districts/district 3/houses/house 9"
GUARDS = "/districts/district 2/guards"
PATCHES = {
    "a value": [{"op": "replace", "path": f"{HOUSE}/stock/ale", "value": 90}],
    "a new member": [{"op": "add", "path": f"{HOUSE}/stock/wine", "value": 3}],
    "a removed member": [{"op": "remove", "path": f"{HOUSE}/rooms"}],
    "an element in front": [
        {"op": "add", "path": f"{GUARDS}/0", "value": {"id": 99, "post": "gate 9", "note": STORY}}
    ],
    "two values": [
        {"op": "replace", "path": f"{HOUSE}/keeper", "value": "Kay"},
        {"op": "replace", "path": f"{GUARDS}/7/post", "value": "gate 8"},
    ],
}


@pytest.mark.parametrize("kind", PATCHES)
def test_a_patch_of_a_large_world_costs_as_in_a_small_one(
    worlds: dict[int, World], kind: str
) -> None:
    calls, rendered, changed = {}, {}, {}
    for num_tokens, world in worlds.items():
        state, seq = world.state, world.seq
        calls[num_tokens] = num_calls(lambda world=world: world.patch(PATCHES[kind]))  # type: ignore[misc]
        rendered[num_tokens] = world.partition.num_rendered
        world.put(state, seq)
        changed[num_tokens] = world.patch(PATCHES[kind]).blocks_changed
        world.put(state, seq)
    small, large = sorted(worlds)
    assert changed[large] == changed[small] == len(PATCHES[kind])
    assert rendered[large] == rendered[small] < 60
    # What grows with the world is a look at each district; the sequence of parts is only copied.
    assert calls[large] < 1.8 * calls[small]


def test_the_large_world_is_large(worlds: dict[int, World]) -> None:
    chars = sum(len(part.text) for part in worlds[100_000].partition.parts)
    assert chars >= 100_000 * CHARS_PER_TOKEN
    assert worlds[100_000].num_blocks > 1500

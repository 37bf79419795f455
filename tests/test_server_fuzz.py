"""Damaged messages, each of which must be answered."""

from __future__ import annotations

import gc
import random
from collections import Counter
from typing import Any

import msgpack
import pytest
from fakes import Desk, FakeRuntime, an_ask

from game_agent.protocol.replies import TERMINAL

SEEDS: list[dict[str, Any]] = [
    {"v": 1, "id": 1, "op": "hello", "client": "x"},
    {"v": 1, "id": 1, "op": "world.put", "world": "w", "state": {"a": {"b": [1, 2.5, None]}}},
    {"v": 1, "id": 1, "op": "world.patch", "world": "w", "merge": {"a": 2}, "seq": 1},
    {"v": 1, "id": 1, "op": "ask", "agent": "ann", "event": "hi", "stream": "sentence"},
    {"v": 1, "id": 1, "op": "tick", "world": "w", "tick": 1, "asks": [an_ask("x"), an_ask("y")]},
    {"v": 1, "id": 1, "op": "agent.observe", "agents": ["ann"], "event": "hi"},
    {"v": 1, "id": 1, "op": "cancel", "target": 1},
]
MAX_GROWN_OBJECTS = 500


def mutate(frame: bytes, random: random.Random) -> bytes:
    out = bytearray(frame)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(out) + 1)
        match random.randrange(4):
            case 0:
                out[place:place] = random.randbytes(random.randint(1, 4))
            case 1:
                del out[place : place + random.randint(1, 4)]
            case 2 if place < len(out):
                out[place] = random.randrange(256)
            case _:
                out = out[:place]
    return bytes(out)


def a_runtime() -> FakeRuntime:
    runtime = FakeRuntime(is_instant=True)
    runtime.world("w", {"a": 1})
    for name in ("ann", "bob"):
        runtime.agent(name, world="w", profile="")
    return runtime


@pytest.mark.parametrize("num_frames", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_frame_stops_the_server_or_goes_without_an_answer(num_frames: int) -> None:
    chance = random.Random(5)
    desk = Desk(is_instant=True)
    kinds: Counter[str] = Counter()
    num_objects: list[int] = []
    for number in range(num_frames):
        if number % (num_frames // 10) == 0:
            # Worlds and memories may grow; the server must not.
            desk.use(a_runtime())
            gc.collect()
            num_objects.append(len(gc.get_objects()))
        frame = mutate(msgpack.packb({**chance.choice(SEEDS), "id": number}), chance)
        desk.send_frames([frame])
        ends = [reply for reply in desk.read() if reply["ev"] in TERMINAL]
        assert ends, "every message is answered"
        ids = [reply["id"] for reply in ends if reply["id"] is not None]
        assert len(set(ids)) == len(ids)
        kinds[ends[0]["ev"]] += 1
        assert ends[0].get("code") != "internal"
        desk.clock.advance(61.0)
        desk.sessions.expire()
    assert len(desk.sessions) <= 1
    assert num_objects[-1] - num_objects[1] < MAX_GROWN_OBJECTS + num_frames // 50
    assert kinds["error"] > num_frames / 4
    assert kinds["ok"] + kinds["done"] > num_frames / 100

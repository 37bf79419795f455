"""Damaged messages, each of which must be answered."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgpack
from fakes import Desk, an_ask

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


def test_no_frame_stops_the_server_or_goes_without_an_answer() -> None:
    chance = random.Random(5)
    desk = Desk(is_instant=True)
    kinds: Counter[str] = Counter()
    for number in range(2000):
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
    assert kinds["error"] > 500
    assert kinds["ok"] + kinds["done"] > 20

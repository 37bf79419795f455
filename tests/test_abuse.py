"""Clients that never read, send without end, or come in crowds: the others are served all the same.

How long the others wait is measured by ``bench/abuse.py``.
"""

from __future__ import annotations

import time
from functools import partial

import psutil
import pytest
from fakes import FakeRuntime
from serving import PATIENCE_S, running

from bench.abusers import LARGE_WORLD, Abuse, abused, never_read, open_connections, send_bytes
from game_agent.client import Client
from game_agent.protocol.limits import Limits

MAX_GROWN_BYTES = 256 * 2**20
"""ZeroMQ's queue of 64 messages of 1 MiB, 16 MiB of replies, and what the allocator keeps."""


def a_runtime() -> FakeRuntime:
    runtime = FakeRuntime(is_instant=True)
    runtime.world(LARGE_WORLD, {"text": "x" * 60_000})
    return runtime


IDS = ["never reads", "sends much", "comes in a crowd"]
SMALL: list[Abuse] = [never_read, partial(send_bytes, 2**24, 2**20), partial(open_connections, 50)]
LARGE: list[Abuse] = [
    never_read,
    partial(send_bytes, 2**30, 2**20),
    partial(open_connections, 1000),
]


@pytest.mark.parametrize("abuse", SMALL, ids=IDS)
def test_others_are_answered(abuse: Abuse) -> None:
    serve_while(abuse)


@pytest.mark.slow
@pytest.mark.parametrize("abuse", LARGE, ids=IDS)
def test_others_are_answered_and_memory_is_bounded(abuse: Abuse) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    serve_while(abuse, at_least_s=10.0)
    assert process.memory_info().rss - before < MAX_GROWN_BYTES


def serve_while(abuse: Abuse, at_least_s: float = 0.0) -> None:
    with running(a_runtime()) as server, Client(server.endpoint, timeout_s=PATIENCE_S) as client:
        client.ping()
        with abused(server.endpoint, abuse):
            while client.stats()["server"]["num_sessions"] < 2:
                time.sleep(0.01)
            end_s = time.monotonic() + at_least_s
            num_asks = 0
            while num_asks < 50 or time.monotonic() < end_s:
                num_asks += 1
                assert client.ask("ann", "x").text == "ann heard x."


def test_connections_above_the_limit_are_told_so() -> None:
    with (
        running(a_runtime(), limits=Limits(max_sessions=5)) as server,
        Client(server.endpoint) as client,
    ):
        client.ping()
        with abused(server.endpoint, partial(open_connections, 20)):
            while client.stats()["server"]["num_sessions"] < 5:
                time.sleep(0.01)
            assert client.stats()["server"]["num_sessions"] == 5

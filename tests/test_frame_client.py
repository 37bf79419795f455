"""The client for game loops: it never waits, and a lost connection is its own affair."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq
from conformance.cable import Cable
from fakes import FakeRuntime
from serving import PATIENCE_S, forget_sessions, free_endpoint, running

from game_agent.client import FrameClient, Pending, calls
from game_agent.client.frame import MAX_UNSENT, SILENCE_S
from game_agent.clock import FakeClock
from game_agent.errors import (
    InvalidInput,
    Overloaded,
    ProtocolError,
    ServerError,
    TooLarge,
    Unavailable,
)
from game_agent.protocol.limits import Limits


def poll_until(client: FrameClient, condition: Callable[[], bool]) -> None:
    """Frames of a game, until something has happened."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s
        client.poll()
        time.sleep(0.001)


@contextmanager
def cabled(runtime: FakeRuntime) -> Iterator[Cable]:
    with running(runtime) as server:
        port = int(server.endpoint.rpartition(":")[2])
        with Cable("127.0.0.1", port) as cable:
            yield cable


def test_requests_are_answered_over_frames() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server, FrameClient(server.endpoint, name="test") as client:
        change = client.start(calls.world_patch("w", merge={"b": 2}, seq=1))
        answer = client.ask("ann", "hello you")
        with pytest.raises(InvalidInput, match="poll"):
            answer.result()
        poll_until(client, lambda: change.is_done and len(runtime.asks) == 1)
        assert change.result() == {"seq": 1, "blocks": 2, "blocks_changed": 1}
        texts, pieces = [answer.text], []
        for _ in range(2):
            before = answer.text
            runtime.step()
            poll_until(client, lambda before=before: answer.text != before)  # type: ignore[misc]
            texts.append(answer.text)
            pieces += answer.take_pieces()
        assert texts == ["", "ann ", "ann heard "]
        assert pieces == ["ann ", "heard "]
        runtime.finish()
        poll_until(client, lambda: answer.is_done)
        assert answer.result().text == answer.text == "ann heard hello you."
        assert client.server is not None
        assert client.server["protocol"] == 1


def test_poll_returns_what_ended() -> None:
    with running(FakeRuntime(is_instant=True)) as server, FrameClient(server.endpoint) as client:
        wanted = [client.start(calls.ping()), client.ask("nobody", "hello")]
        ended = []
        give_up_s = time.monotonic() + PATIENCE_S
        while len(ended) < 2 and time.monotonic() < give_up_s:
            ended += client.poll(max_messages=1)
        assert ended == wanted
        assert ended[0].result() is None
        assert isinstance(ended[1].error, ServerError)
        with pytest.raises(ServerError, match="not_found"):
            ended[1].result()


def test_a_tick_and_a_cancel() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server, FrameClient(server.endpoint) as client:
        asks = [{"agent": "ann", "event": "x"}, {"agent": "nobody", "event": "y"}]
        tick = client.tick("w", 7, merge={"b": 1}, asks=asks)
        poll_until(client, lambda: len(runtime.asks) == 1 and tick.change.is_done)
        assert tick.change.result()["tick"] == 7
        found = client.cancel(tick.asks[0])
        poll_until(client, lambda: all(each.is_done for each in (*tick.asks, found)))
        assert found.result()
        assert tick.asks[0].result().finish_reason == "cancelled"
        assert tick.asks[1].error is not None


def test_a_cut_connection_is_resumed_and_nothing_is_done_twice() -> None:
    runtime = FakeRuntime()
    clock = FakeClock(100.0)
    with cabled(runtime) as cable, FrameClient(cable.endpoint, clock=clock) as client:
        answer = client.ask("ann", "x")
        tick = client.tick("w", 1, merge={"b": 1}, asks=[{"agent": "ann", "event": "y"}])
        poll_until(client, lambda: len(runtime.asks) == 2)
        cable.cut()
        clock.advance(SILENCE_S / 2)
        client.poll()
        runtime.finish()
        late = client.start(calls.world_patch("w", merge={"c": 1}))
        clock.advance(SILENCE_S + 0.1)
        requests = [answer, tick.change, *tick.asks, late]
        poll_until(client, lambda: all(each.is_done for each in requests))
        assert answer.result().text == "ann heard x."
        assert tick.asks[0].result().text == "ann heard y."
        assert len(runtime.asks) == 2
        assert runtime.worlds["w"].seq == late.result()["seq"] == 2


@pytest.mark.parametrize("is_start_first", [True, False])
def test_after_a_loading_screen_a_forgotten_session_shows(is_start_first: bool) -> None:
    runtime, clock = FakeRuntime(), FakeClock()
    with running(runtime) as server, FrameClient(server.endpoint, clock=clock) as client:
        lost = client.ask("ann", "x")
        poll_until(client, lambda: len(runtime.asks) == 1)
        runtime.step()
        poll_until(client, lambda: lost.text == "ann ")
        forget_sessions(server)
        clock.advance(70.0)
        late = client.start(calls.ping()) if is_start_first else None
        poll_until(client, lambda: lost.is_done)
        assert isinstance(lost.error, Unavailable)
        late = late or client.start(calls.ping())
        poll_until(client, lambda: late.is_done)
        assert late.error is None


def test_what_was_too_large_before_there_was_a_connection_ends_and_holds_nothing_up() -> None:
    runtime, limits = FakeRuntime(), Limits(max_frame_bytes=1000)
    with running(runtime, limits=limits) as server, FrameClient(server.endpoint) as client:
        large = client.start(calls.world_put("v", {"x": "y" * 2000}))
        asks = [{"agent": "ann", "event": "z" * 1000}]
        tick = client.tick("w", 1, merge={"b": 1}, asks=asks)
        small = client.start(calls.world_patch("w", merge={"c": 1}))
        ended: list[Pending[Any]] = []
        give_up_s = time.monotonic() + PATIENCE_S
        while len(ended) < 4:
            assert time.monotonic() < give_up_s
            ended += client.poll()
        assert set(ended) == {large, tick.change, *tick.asks, small}
        for refused in (large, tick.change, *tick.asks):
            with pytest.raises(TooLarge, match="1000"):
                refused.result()
        assert small.result()["seq"] == 1


def test_what_ended_is_told_though_the_server_says_nonsense_then() -> None:
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    with router, FrameClient(f"tcp://127.0.0.1:{port}") as client:
        poll_until(client, lambda: router.poll(0) != 0)
        peer, hello = router.recv_multipart()
        told = {"session": "s", "resumed": False, "limits": {"max_frame_bytes": 9999}}
        ok = {"v": 1, "ev": "ok", "expiry_ms": 60_000, **told}
        router.send_multipart([peer, msgpack.packb({**ok, "id": msgpack.unpackb(hello)["id"]})])
        poll_until(client, lambda: client.is_connected)
        ping = client.start(calls.ping())
        client.poll()
        request = msgpack.unpackb(router.recv_multipart()[1])
        router.send_multipart([peer, msgpack.packb({"v": 1, "id": request["id"], "ev": "ok"})])
        router.send_multipart([peer, b"\xc1"])
        ended: list[Pending[Any]] = []
        give_up_s, num_errors = time.monotonic() + PATIENCE_S, 0
        while not (ended and num_errors):
            assert time.monotonic() < give_up_s
            try:
                ended += client.poll()
            except ProtocolError:
                num_errors += 1
        assert ended == [ping]


def test_a_server_that_forgot_the_session_fails_what_was_sent_and_gets_what_was_not() -> None:
    runtime, clock, endpoint = FakeRuntime(), FakeClock(), free_endpoint()
    with FrameClient(endpoint, clock=clock) as client:
        first = client.start(calls.ping())
        client.poll()
        assert not client.is_connected
        with running(runtime, bind=endpoint):
            clock.advance(SILENCE_S + 0.1)
            poll_until(client, lambda: first.is_done)
            lost = client.ask("ann", "x")
            poll_until(client, lambda: len(runtime.asks) == 1)
        late = None
        with running(FakeRuntime(), bind=endpoint):
            for _ in range(3):
                # A ping into the void shows that the connection is gone.
                clock.advance(SILENCE_S + 0.1)
                client.poll()
                late = late or client.start(calls.ping())
            poll_until(client, lambda: lost.is_done and late.is_done)  # type: ignore[union-attr]
        assert isinstance(lost.error, Unavailable)
        assert late is not None
        assert late.error is None


def test_without_a_server_nothing_waits_and_little_is_kept() -> None:
    with FrameClient(free_endpoint()) as client:
        start_s = time.monotonic()
        for _ in range(MAX_UNSENT):
            client.start(calls.ping())
        assert client.poll() == []
        with pytest.raises(Overloaded):
            client.start(calls.ping())
        assert time.monotonic() - start_s < PATIENCE_S

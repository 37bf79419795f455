"""The server over real sockets, spoken to in plain ZeroMQ and MessagePack."""

from __future__ import annotations

import os
import random
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from fakes import FakeRuntime
from serving import ANY_PORT, PATIENCE_S, running

from game_agent.clock import FakeClock
from game_agent.errors import InvalidInput, Unavailable
from game_agent.protocol.limits import Limits
from game_agent.server import Server, ServerSettings, serve
from game_agent.server import running as run_server


class Wire:
    """A socket that speaks maps."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        self.socket = socket
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, round(PATIENCE_S * 1000))
        self.socket.connect(endpoint)

    def send(self, **fields: Any) -> None:
        self.socket.send(msgpack.packb({"v": 1, **fields}))

    def read(self) -> dict[str, Any]:
        reply: dict[str, Any] = msgpack.unpackb(self.socket.recv_multipart()[-1])
        return reply

    def ask_for(self, **fields: Any) -> dict[str, Any]:
        self.send(**fields)
        return self.read()


class Net:
    """Connects to servers, and closes all connections at the end."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self._wires: list[Wire] = []

    def connect(self, endpoint: str, kind: int = zmq.DEALER) -> Wire:
        self._wires.append(Wire(self.context.socket(kind), endpoint))
        return self._wires[-1]


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.context.destroy(linger=0)


def test_dealer_and_req(net: Net) -> None:
    with running(FakeRuntime(is_instant=True)) as server:
        for kind in (zmq.DEALER, zmq.REQ):
            wire = net.connect(server.endpoint, kind)
            assert wire.ask_for(id=1, op="hello")["ev"] == "ok"
            assert wire.ask_for(id=2, op="ask", agent="ann", event="x")["text"] == "ann heard x."
        stream = wire.ask_for(id=3, op="ask", agent="ann", event="x", stream=True)
        assert stream["where"] == "stream"


def test_an_empty_first_frame_is_mirrored(net: Net) -> None:
    with running(FakeRuntime()) as server:
        wire = net.connect(server.endpoint)
        wire.socket.send_multipart([b"", msgpack.packb({"v": 1, "id": 1, "op": "ping"})])
        first, frame = wire.socket.recv_multipart()
        assert (first, msgpack.unpackb(frame)["ev"]) == (b"", "ok")


def test_an_answer_comes_from_another_thread(net: Net) -> None:
    runtime = FakeRuntime()
    with running(runtime) as server:
        wire = net.connect(server.endpoint)
        wire.send(id=1, op="ask", agent="ann", event="x", stream=True)
        assert wire.ask_for(id=2, op="ping")["id"] == 2
        for text in ("ann ", "heard "):
            runtime.step()
            assert wire.read()["text"] == text
        runtime.finish()
        assert [wire.read()["ev"] for _ in range(2)] == ["token", "done"]


def test_a_frame_above_the_limit_closes_that_connection_only(net: Net) -> None:
    with running(FakeRuntime(), limits=Limits(max_frame_bytes=1000)) as server:
        good, bad = net.connect(server.endpoint), net.connect(server.endpoint)
        assert bad.ask_for(id=1, op="ping")["ev"] == "ok"
        monitor = bad.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        bad.send(id=2, op="ping", client="x" * 2000)
        assert monitor.poll(round(PATIENCE_S * 1000))
        bad.socket.disable_monitor()
        monitor.close()
        assert good.ask_for(id=1, op="ping")["ev"] == "ok"


def test_a_session_is_resumed_over_a_new_connection(net: Net) -> None:
    runtime = FakeRuntime()
    with running(runtime) as server:
        old = net.connect(server.endpoint)
        token = old.ask_for(id=1, op="hello")["session"]
        old.send(id=2, op="ask", agent="ann", event="x")
        assert old.ask_for(id=3, op="ping")["id"] == 3
        old.socket.close()
        runtime.finish()
        new = net.connect(server.endpoint)
        new.send(id=1, op="hello", session=token)
        new.send(id=2, op="ask", agent="ann", event="x")
        replies = {reply["id"]: reply for reply in (new.read(), new.read())}
        assert replies[1]["resumed"]
        assert replies[2]["text"] == "ann heard x."
        assert len(runtime.asks) == 1


def test_a_server_that_stood_still_does_not_blame_its_clients(net: Net) -> None:
    clock = FakeClock()
    with running(FakeRuntime(), clock=clock) as server:
        wire = net.connect(server.endpoint)
        token = wire.ask_for(id=1, op="hello")["session"]
        change = {"id": 2, "op": "world.patch", "world": "w", "merge": {"b": 1}}
        assert wire.ask_for(**change)["seq"] == 1
        clock.advance(3600.0)  # the computer slept, and the connection with it
        other = net.connect(server.endpoint)
        assert other.ask_for(id=1, op="ping")["ev"] == "ok"
        clock.advance(1.0)
        assert other.ask_for(id=2, op="ping")["ev"] == "ok"
        assert other.ask_for(id=3, op="stats")["server"]["num_sessions"] == 2
        new = net.connect(server.endpoint)
        assert new.ask_for(id=3, op="hello", session=token)["resumed"]
        assert new.ask_for(**change)["seq"] == 1


def test_replies_to_a_peer_that_left_hurt_nobody(net: Net) -> None:
    runtime = FakeRuntime()
    with running(runtime) as server:
        gone, here = net.connect(server.endpoint), net.connect(server.endpoint)
        gone.send(id=1, op="ask", agent="ann", event="x", stream=True)
        assert gone.ask_for(id=2, op="ping")["id"] == 2
        gone.socket.close()
        here.send(id=1, op="ask", agent="ann", event="y")
        assert here.ask_for(id=2, op="ping")["id"] == 2
        runtime.finish()
        assert here.read()["text"] == "ann heard y."


def test_a_slow_reader_delays_nobody(net: Net) -> None:
    runtime = FakeRuntime()
    with running(runtime) as server:
        runtime.world("w", {"text": "x" * 60_000})
        quick = net.connect(server.endpoint)
        net.context.setsockopt(zmq.RCVHWM, 1)
        net.context.setsockopt(zmq.RCVBUF, 2**16)
        slow = net.connect(server.endpoint)
        for request_id in range(200):
            slow.send(id=request_id, op="world.get", world="w")
        num_asked = num_queued = 0
        while num_asked < 10_000:
            num_asked += 1
            figures = quick.ask_for(id=num_asked, op="stats")["server"]
            if figures["num_requests"] == 200 + num_asked:
                num_queued = figures["num_queued"]
                break
        assert num_queued > 0, "ZeroMQ's queue for the slow reader is full"
        assert [slow.read()["id"] for _ in range(200)] == list(range(200))


def test_garbage_over_the_wire(net: Net) -> None:
    chance = random.Random(3)
    with running(FakeRuntime()) as server:
        wire = net.connect(server.endpoint)
        for _ in range(50):
            wire.socket.send_multipart(
                [chance.randbytes(chance.randrange(30)) for _ in range(chance.randint(1, 3))]
            )
            assert wire.read()["ev"] == "error"
        assert wire.ask_for(id=1, op="ping")["ev"] == "ok"


def test_stopping_lets_a_running_ask_end(net: Net) -> None:
    runtime = FakeRuntime()
    with running(runtime, drain_s=PATIENCE_S) as server:
        wire = net.connect(server.endpoint)
        wire.send(id=1, op="ask", agent="ann", event="x")
        assert wire.ask_for(id=2, op="ping")["id"] == 2
        server.stop()
        runtime.finish()
        assert wire.read()["finish_reason"] == "stop"


def test_stopping_cancels_what_takes_too_long(net: Net) -> None:
    with running(FakeRuntime(), drain_s=0.0) as server:
        wire = net.connect(server.endpoint)
        wire.send(id=1, op="ask", agent="ann", event="x")
        assert wire.ask_for(id=2, op="ping")["id"] == 2
        server.stop()
        assert wire.read()["finish_reason"] == "cancelled"
        server.stop()


def test_stop_after_close_does_nothing() -> None:
    server = Server(FakeRuntime(), ServerSettings(bind=ANY_PORT))
    server.close()
    server.stop()


def test_a_server_runs_while_a_block_does(net: Net) -> None:
    runtime = FakeRuntime()
    with run_server(runtime) as server:
        wire = net.connect(server.endpoint)
        assert wire.ask_for(id=1, op="ping")["ev"] == "ok"
        with pytest.raises(Unavailable), run_server(runtime, ServerSettings(server.endpoint)):
            pass
        assert wire.ask_for(id=2, op="ping")["ev"] == "ok"
    Server(runtime, ServerSettings(server.endpoint)).close()  # its address is free again


def test_what_ended_a_server_is_told_at_the_end_of_the_block(net: Net) -> None:
    def play(problem: Exception | None) -> None:
        with run_server(FakeRuntime()) as server:
            server._inbox.post(fail)
            if problem is not None:
                raise problem

    def fail() -> None:
        raise Unavailable("the disk is full")

    with pytest.raises(Unavailable, match="the disk is full"):
        play(None)
    # What the block raised because of it is not lost.
    with pytest.raises(Unavailable) as caught:
        play(TimeoutError("no reply"))
    assert isinstance(caught.value.__context__, TimeoutError)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send a signal to itself")
def test_serve_ends_at_a_signal(net: Net, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/socket"
    before = signal.getsignal(signal.SIGTERM)

    def stop_it() -> None:
        wire = net.connect(endpoint)
        assert wire.ask_for(id=1, op="ping")["ev"] == "ok"
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_it)
    thread.start()
    serve(FakeRuntime(), ServerSettings(bind=endpoint))
    thread.join(PATIENCE_S)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no ipc sockets in ZeroMQ")
def test_an_ipc_socket_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Server(FakeRuntime(), ServerSettings(bind=f"ipc://{path}")) as server:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert server.endpoint == f"ipc://{path}"


def test_an_address_in_use_is_a_clear_error() -> None:
    with (
        Server(FakeRuntime(), ServerSettings(bind=ANY_PORT)) as server,
        pytest.raises(Unavailable, match="is a server running there"),
    ):
        Server(FakeRuntime(), ServerSettings(bind=server.endpoint))


@pytest.mark.parametrize(
    "bind",
    [
        *["tcp://0.0.0.0:5761", "tcp://*:5761", "tcp://192.168.0.1:5761", "tcp://localhost:5761"],
        *["tcp://[::]:5761", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:70000"],
        *["udp://127.0.0.1:1", "127.0.0.1:5761", "ipc://", "ipc://@name", "ipc://*"],
    ],
)
def test_an_address_that_is_not_ours_alone_is_refused(bind: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ServerSettings(bind=bind)
    assert caught.value.where == "bind"


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:0", "tcp://127.1.2.3:*", "tcp://[::1]:5761"])
def test_loopback_addresses_are_accepted(bind: str) -> None:
    assert ServerSettings(bind=bind).bind == bind


@pytest.mark.parametrize(
    "field", [{"expiry_ms": 59_999}, {"heartbeat_ms": 0}, {"replay_s": -1.0}, {"drain_s": -1.0}]
)
def test_durations_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        ServerSettings(**field)
    assert caught.value.where in field

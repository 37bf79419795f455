"""Sends a schedule to a server, on time, and keeps account of every reply."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from game_agent.errors import GameAgentError, RequestTimeout
from game_agent.protocol import VERSION
from game_agent.protocol.codec import Map, decode_reply, encode
from game_agent.protocol.replies import TERMINAL
from game_agent.soak.figures import Counts, Latencies
from game_agent.soak.game import Game
from game_agent.soak.schedule import Event, SoakSettings, schedule

SET_UP_S = 300.0
LAST_REPLIES_S = 30.0
SAMPLE_EVERY_S = 1.0


@dataclass(slots=True)
class _Request:
    """A request that was sent, and what came back."""

    op: str
    phase: str
    frame: bytes
    intended_s: float
    is_first: bool = True
    num_sent: int = 1
    is_cut: bool = False
    pieces: list[str] = field(default_factory=list)


class Load:
    """One game's connection. ``set_up``, then ``run``, then read ``counts`` and ``latencies``.

    Raises ``RequestTimeout`` if the server cannot be reached, ``GameAgentError`` if it refuses the
    game's set-up.
    """

    def __init__(self, endpoint: str, settings: SoakSettings) -> None:
        self.settings = settings
        self.counts = Counts()
        self.latencies = Latencies()
        self.model: Map = {}
        self.cpu_share = 0.0
        self.num_context_tokens: list[int] = []
        self._endpoint = endpoint
        self._game = Game(settings)
        self._context = zmq.Context()
        self._socket = self._connect()
        self._next_id = 1
        self._open: dict[int, _Request] = {}
        self._closed: dict[int, tuple[_Request, bytes]] = {}
        self._ask_ids: dict[int, int] = {}
        self._session: str | None = None
        self._barrier: int | None = None

    def close(self) -> None:
        self._context.destroy(linger=0)

    def set_up(self) -> None:
        """Say hello, make worlds and agents; wait until all is answered."""
        self._send("hello", {"client": "soak"}, "set-up", time.monotonic())
        for op, fields in self._game.set_up():
            self._send(op, fields, "set-up", time.monotonic())
            self._receive(0)
        self._await_all(SET_UP_S)
        if self._open:
            raise RequestTimeout(f"{self._endpoint} did not answer for {SET_UP_S:g} s")
        if self.counts.errors:
            raise GameAgentError(f"the server refused the game: {dict(self.counts.errors)}")

    def run(self, on_time: Callable[[float], None]) -> None:
        """Send everything at its time; ``on_time`` is called about once a second with the time."""
        events = schedule(self.settings)
        begun_s, cpu_s = time.monotonic(), time.process_time()
        next_sample_s = 0.0
        for event in events:
            due_s = begun_s + event.at_s
            while (left_s := due_s - time.monotonic()) > 0:
                self._receive(left_s)
            self._do(event, due_s)
            self._receive(0)
            if event.at_s >= next_sample_s:
                on_time(event.at_s)
                next_sample_s += SAMPLE_EVERY_S
        elapsed_s = time.monotonic() - begun_s
        self.cpu_share = (time.process_time() - cpu_s) / elapsed_s if elapsed_s else 0.0
        self._await_all(LAST_REPLIES_S)
        # A second reply would follow the first: what comes after this ping is nobody's.
        self._send("ping", {}, "end", time.monotonic())
        self._await_all(LAST_REPLIES_S)
        self.counts.dropped = len(self._open)

    def _do(self, event: Event, due_s: float) -> None:
        match event.kind:
            case "tick":
                self._send("tick", self._game.tick(event), event.phase, due_s)
            case "ask":
                ask_id = self._send("ask", self._game.ask(event), event.phase, due_s)
                self._ask_ids[event.number] = ask_id
            case "cancel":
                target = self._ask_ids[event.number]
                self._send("cancel", {"target": target}, event.phase, due_s)
            case "encode":
                for op, fields in self._game.encode():
                    self._send(op, fields, event.phase, due_s)
            case "reconnect":
                self._reconnect(event.phase, due_s)

    def _reconnect(self, phase: str, due_s: float) -> None:
        """Cut the connection and resume the session; what stays unanswered is sent again later.

        Replies that the server still held come before the ping's, so only then is it known which
        requests were lost.
        """
        self.counts.reconnects += 1
        for request in self._open.values():
            request.is_cut = True
        self._socket.close(linger=0)
        self._socket = self._connect()
        self._send("hello", {"session": self._session}, phase, due_s)
        self._barrier = self._send("ping", {}, phase, due_s)

    def _send_again(self, before: int) -> None:
        for request_id, request in self._open.items():
            if request_id < before:
                request.num_sent += 1
                self._socket.send(request.frame)

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(self._endpoint)
        return socket

    def _send(self, op: str, fields: Map, phase: str, due_s: float) -> int:
        request_id = self._next_id
        self._next_id += 1
        frame = encode({"v": VERSION, "id": request_id, "op": op, **fields})
        self._open[request_id] = _Request(op, phase, frame, due_s)
        self.counts.sent += 1
        self.counts.kinds[op] += 1
        self._socket.send(frame)
        return request_id

    def _await_all(self, patience_s: float) -> None:
        deadline_s = time.monotonic() + patience_s
        while self._open and (left_s := deadline_s - time.monotonic()) > 0:
            self._receive(min(left_s, 1.0))

    def _receive(self, patience_s: float) -> None:
        """Take what has come, or wait for something, but not longer than ``patience_s``."""
        if self._socket.poll(max(0, round(patience_s * 1e3))):
            while True:
                try:
                    frame = self._socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    return
                self._take(frame, time.monotonic())

    def _take(self, frame: bytes, now_s: float) -> None:
        reply = decode_reply(frame)
        request_id = reply["id"]
        request = self._open.get(request_id)
        if request is None:
            self._take_second(request_id, reply, frame)
            return
        waited_s = now_s - request.intended_s
        if request.is_first and request.op == "ask":
            request.is_first = False
            if reply["ev"] != "error":
                self.latencies.record("ttft", request.phase, waited_s)
        if reply["ev"] not in TERMINAL:
            request.pieces.append(reply["text"])
            return
        del self._open[request_id]
        self._closed[request_id] = (request, frame if request.num_sent > 1 else b"")
        self.counts.answered += 1
        self._end(request, request_id, reply, waited_s)

    def _take_second(self, request_id: int, reply: Map, frame: bytes) -> None:
        request, first = self._closed.get(request_id, (None, b""))
        if reply["ev"] in TERMINAL and request is not None and frame == first:
            self.counts.repeated += 1
        else:
            self.counts.doubled += 1

    def _end(self, request: _Request, request_id: int, reply: Map, waited_s: float) -> None:
        if reply["ev"] == "error":
            self.counts.errors[reply["code"]] += 1
        elif request.op == "hello":
            self._session, self.model = reply["session"], reply["model"]
            if request.phase == "reconnects" and not reply["resumed"]:
                self.counts.errors["session lost"] += 1
        elif request.op == "ask":
            self._end_ask(request, reply, waited_s)
        elif request.op == "tick":
            self.latencies.record("tick", request.phase, waited_s)
        elif request_id == self._barrier:
            self._barrier = None
            self._send_again(request_id)

    def _end_ask(self, request: _Request, reply: Map, waited_s: float) -> None:
        reason = reply["finish_reason"]
        self.counts.finish_reasons[reason] += 1
        self.num_context_tokens.append(reply["usage"]["context_tokens"])
        # Pieces that were on their way when the connection was cut are lost, as the protocol says.
        if not request.is_cut and "".join(request.pieces) != reply["text"]:
            self.counts.broken_texts += 1
        if reason != "cancelled":
            self.latencies.record("total", request.phase, waited_s)
            is_late = waited_s * 1e3 > self.settings.deadline_ms
            self.counts.deadline_misses += is_late or reason == "deadline"

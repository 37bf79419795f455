"""The server's sockets: one ROUTER for all peers, and a wake-up for the engine's thread."""

from __future__ import annotations

from collections import Counter

import zmq

from game_agent.clock import Clock, SystemClock
from game_agent.errors import Unavailable
from game_agent.server.app import App
from game_agent.server.backend import Backend
from game_agent.server.inbox import Inbox
from game_agent.server.metrics_http import MetricsServer
from game_agent.server.router import bind_router, open_router
from game_agent.server.security import Gate, KeyRing, user_of
from game_agent.server.session import Peer, Session
from game_agent.server.settings import ServerSettings
from game_agent.server.state_journal import open_journal
from game_agent.server.table import SessionTable

READ_BUDGET_S = 0.002
"""Reading pauses after so long for replies, so that one peer's flood does not hold up others."""
READ_BUDGET_BYTES = 2**20
READ_PAUSE_MS = 5
"""After so many bytes at once nothing is read for a moment: what is sent faster than about 200 MB/s
stays with its sender (ZeroMQ's queue is full, TCP waits), and the others keep the processor."""
IDLE_POLL_MS = 250
BLOCKED_POLL_MS = 5
"""How often it is tried again to send to a peer whose queue was full."""
LAST_WORDS_MS = 500
EXPIRY_EVERY_S = 1.0
HEALTHY_S = 10.0
"""A server that has not looked at its sockets for so long is not healthy."""


class Server:
    """Listens as soon as it is made; serves in ``run``, in the calling thread, until ``stop``.

    Raises ``InvalidInput`` (settings) or ``Unavailable`` (the address is taken, the state cannot be
    used). A context manager that closes the sockets.
    """

    def __init__(
        self,
        runtime: Backend,
        settings: ServerSettings | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings or ServerSettings()
        folder = self.settings.curve_keys
        keys = None if folder is None else KeyRing.load(folder)
        self._clock = clock or SystemClock()
        self._sessions = SessionTable(self.settings, self._clock)
        self._journal = open_journal(runtime, self.settings)
        for reply in self._journal.replies(self._clock.now_s()):
            self._sessions.restore(reply.session, reply.owner, reply.id, reply.frame)
        self._context = zmq.Context()
        self._inbox = Inbox(self._context)
        self._app = App(
            runtime, self._sessions, self.settings, self._clock, self._inbox.post, self._journal
        )
        self._stopping_since_s: float | None = None
        self._is_asked_to_stop = False
        self._next_expiry_s = self._clock.now_s()
        self._blocked: dict[Session, None] = {}
        self._next_retry_s = 0.0
        self._next_read_s = 0.0
        self._router = open_router(self._context, self.settings)
        self.metrics: MetricsServer | None = None
        self._gate = None if keys is None else Gate(self._context, keys, self.refused)
        if self._gate is not None:
            self._gate.guard(self._router)
        try:
            self.endpoint = bind_router(self._router, self.settings.bind)
        except zmq.ZMQError as error:
            self.close()
            raise Unavailable(
                f"cannot listen at {self.settings.bind}: {error}; is a server running there?"
            ) from error
        self._seen_s = self._clock.now_s()
        if self.settings.metrics_port is not None:
            self.metrics = self._serve_metrics(self.settings.metrics_port)

    def run(self) -> None:
        """Serve until ``stop`` was called and what ran then has ended (``drain_s`` at most).

        Raises ``Unavailable`` if changes cannot be written to ``state_dir``; whoever asked for them
        gets no reply then.
        """
        poller = zmq.Poller()
        poller.register(self._inbox.socket, zmq.POLLIN)
        if self._gate is not None:
            for socket in self._gate.sockets:
                poller.register(socket, zmq.POLLIN)
        while not self._is_finished():
            self._seen_s = self._clock.now_s()
            is_reading = self._seen_s >= self._next_read_s
            poller.register(self._router, zmq.POLLIN if is_reading else 0)
            ready = dict(poller.poll(self._patience_ms(is_reading=is_reading)))
            if self._inbox.socket in ready:
                self._inbox.woken()
            if self._gate is not None:
                self._gate.attend(ready)
            if self._router in ready:
                self._receive()
            self._inbox.run()
            self._expire()
            self._journal.commit()
            self._send()

    def _patience_ms(self, *, is_reading: bool) -> int:
        if not is_reading:
            return READ_PAUSE_MS
        return BLOCKED_POLL_MS if self._blocked else IDLE_POLL_MS

    def stop(self) -> None:
        """Make ``run`` end soon. From any thread or a signal handler; may be called again."""
        self._is_asked_to_stop = True
        self._inbox.wake()

    def close(self) -> None:
        """Close the sockets and the sessions. Only when ``run`` has ended or was never called."""
        if self.metrics is not None:
            self.metrics.close()
        for session in self._sessions:
            self._sessions.close(session)
        self._inbox.close()
        self._router.disable_monitor()
        self._router.close(linger=LAST_WORDS_MS)
        self._context.destroy(linger=0)
        self._journal.close()

    @property
    def refused(self) -> Counter[str]:
        """Connections and sessions that were refused, by reason."""
        return self._sessions.refused

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _expire(self) -> None:
        # It looks at every session, which is too much for every turn.
        late_s = self._seen_s - self._next_expiry_s
        if late_s < 0:
            return
        self._next_expiry_s = self._seen_s + EXPIRY_EVERY_S
        if self._gate is not None:
            self._shut_out(self._gate)
        if late_s > HEALTHY_S:
            # The server itself stood still, as a computer that sleeps does; what clients sent
            # meanwhile may lie unread.
            self._sessions.excuse(late_s)
        self._sessions.expire()

    def _shut_out(self, gate: Gate) -> None:
        """End the sessions of clients whose key was taken away."""
        gate.allowed.refresh()
        for session in self._sessions:
            if session.owner not in gate.allowed:
                self._sessions.close(session)

    def _serve_metrics(self, port: int) -> MetricsServer:
        try:
            return MetricsServer(port, self._app.stats, self._is_healthy)
        except Unavailable:
            self.close()
            raise

    def _is_healthy(self) -> bool:
        is_alive = self._clock.now_s() - self._seen_s < HEALTHY_S
        return is_alive and not self._app.is_draining

    def _receive(self) -> None:
        end_s = self._clock.now_s() + READ_BUDGET_S
        num_bytes = 0
        while True:
            try:
                parts = self._router.recv_multipart(zmq.NOBLOCK, copy=self._gate is None)
            except zmq.Again:
                return
            self._take(parts)
            num_bytes += sum(map(len, parts))
            now_s = self._clock.now_s()
            if num_bytes >= READ_BUDGET_BYTES:
                self._next_read_s = now_s + READ_PAUSE_MS / 1000
                return
            if now_s >= end_s:
                return

    def _take(self, parts: list[bytes] | list[zmq.Frame]) -> None:
        routing_id, *frames = (part if isinstance(part, bytes) else part.bytes for part in parts)
        has_delimiter = len(frames) > 1 and frames[0] == b""
        peer = Peer(routing_id, has_delimiter, user_of(parts[-1]))
        # ZeroMQ asks about a key only once, when the connection is made, and cannot cut it off.
        if self._gate is not None and not self._gate.admits(peer.user):
            return
        refusal = self._app.receive(peer, frames[1:] if has_delimiter else frames)
        if refusal is not None:
            self._send_to(peer, refusal)

    def _send(self) -> None:
        """Send what waits, now and then also to those whose queues were full."""
        now_s = self._clock.now_s()
        sessions = self._sessions.take_outbox()
        if self._blocked and now_s >= self._next_retry_s:
            sessions += self._blocked
            self._blocked.clear()
            self._next_retry_s = now_s + BLOCKED_POLL_MS / 1000
        for session in sessions:
            if session not in self._blocked and self._send_session(session):
                self._blocked[session] = None

    def _send_session(self, session: Session) -> bool:
        """Send what waits for one peer. True if its queue is full."""
        while session.peer is not None and (frame := session.peek()) is not None:
            is_sent = self._send_to(session.peer, frame)
            if is_sent is None:
                self._sessions.disconnect(session)
            elif is_sent:
                session.sent()
            else:
                return True
        return False

    def _send_to(self, peer: Peer, frame: bytes) -> bool | None:
        """True: sent. False: its queue is full. None: it is gone."""
        delimiter = [b""] if peer.has_delimiter else []
        try:
            self._router.send_multipart([peer.routing_id, *delimiter, frame], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return None
        return True

    def _is_finished(self) -> bool:
        if not self._is_asked_to_stop:
            return False
        now_s = self._clock.now_s()
        if self._stopping_since_s is None:
            self._stopping_since_s = now_s
            self._app.is_draining = True
        waited_s = now_s - self._stopping_since_s
        if waited_s >= self.settings.drain_s:
            for session in self._sessions:
                session.cancel_all()
        is_idle = all(
            not session.num_pending and (session.peer is None or not session.num_queued)
            for session in self._sessions
        )
        return is_idle or waited_s >= self.settings.drain_s + LAST_WORDS_MS / 1000

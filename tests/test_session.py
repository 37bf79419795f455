"""Sessions: one terminal reply for each request, replay, resume, expiry, slow readers."""

from __future__ import annotations

import dataclasses
from collections import Counter

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from game_agent.clock import FakeClock
from game_agent.errors import InvalidInput, Overloaded
from game_agent.protocol.limits import Limits
from game_agent.server.former import MAX_FORMER_PEERS, FormerPeers
from game_agent.server.session import Peer, Session
from game_agent.server.settings import ServerSettings
from game_agent.server.table import SessionTable

PEER = Peer(b"p")
SMALL = Limits(max_requests_in_flight=2, max_queued_bytes=300, max_replay_bytes=100)


class Handle:
    def __init__(self) -> None:
        self.num_cancelled = 0

    def cancel(self) -> None:
        self.num_cancelled += 1


def new_session(limits: Limits | None = None) -> Session:
    return Session("token", PEER, limits or Limits(), replay_s=60.0, now_s=0.0)


def frames(session: Session) -> list[bytes]:
    out = []
    while (frame := session.peek()) is not None:
        session.sent()
        out.append(frame)
    return out


def test_a_repeated_request_gets_the_reply_it_had_until_it_is_forgotten() -> None:
    session = new_session()
    assert session.begin(1, 0.0)
    assert not session.begin(1, 1.0)
    assert session.finish(1, b"first", 2.0)
    assert not session.finish(1, b"second", 2.0)
    assert not session.begin(1, 3.0), "its reply waits to be sent"
    assert frames(session) == [b"first"]
    assert not session.begin(1, 62.0)
    assert frames(session) == [b"first"]
    assert session.begin(1, 62.1)
    assert frames(session) == []


def test_a_repeated_request_under_way_gets_no_second_reply_when_there_is_no_room() -> None:
    session = new_session(Limits(max_burst_requests=1, max_requests_per_s=1))
    session.begin(1, 0.0)
    assert not session.begin(1, 0.0), "its reply is to come"
    session.finish(1, b"done", 0.0)
    assert not session.begin(1, 0.0), "it waits to be sent"
    assert frames(session) == [b"done"]
    with pytest.raises(Overloaded):
        session.begin(1, 0.0)
    assert not session.begin(1, 1.0)
    assert frames(session) == [b"done"]


def test_the_text_1_is_not_the_number_1() -> None:
    session = new_session()
    assert session.begin(1, 0.0)
    assert session.begin("1", 0.0)


def test_a_reply_that_is_not_kept_lets_the_request_be_tried_again() -> None:
    session = new_session()
    session.begin(1, 0.0)
    session.finish(1, b"not now", 0.0, keep=False)
    assert not session.begin(1, 0.0), "the client has not read it yet"
    assert frames(session) == [b"not now"]
    assert session.begin(1, 0.0)


def test_kept_replies_are_bounded_the_oldest_goes() -> None:
    session = new_session(SMALL)
    for request_id in (1, 2, 3):
        session.begin(request_id, 0.0)
        session.finish(request_id, bytes([64 + request_id]) * 40, 0.0)
        frames(session)
    assert not session.begin(2, 0.0)
    assert not session.begin(3, 0.0)
    assert session.begin(1, 0.0)


def test_requests_in_flight_are_bounded() -> None:
    session = new_session(SMALL)
    session.begin(1, 0.0)
    session.begin(2, 0.0)
    assert not session.begin(2, 0.0)
    with pytest.raises(Overloaded) as caught:
        session.begin(3, 0.0)
    assert caught.value.retry_after_ms > 0
    session.finish(1, b"", 0.0)
    assert session.begin(3, 0.0)


def test_unread_replies_are_bounded() -> None:
    session = new_session(SMALL)
    session.begin(1, 0.0)
    session.finish(1, b"x" * 301, 0.0)
    with pytest.raises(Overloaded):
        session.begin(2, 0.0)
    frames(session)
    assert session.begin(2, 0.0)
    assert session.queued_bytes == 0


def pieces(session: Session) -> list[tuple[int, str]]:
    return [(reply["index"], reply["text"]) for reply in map(msgpack.unpackb, frames(session))]


def test_pieces_that_wait_are_joined() -> None:
    session = new_session()
    session.begin(1, 0.0)
    session.stream(1, "token", "a")
    assert pieces(session) == [(0, "a")]
    session.stream(1, "token", "b")
    session.stream(1, "token", "c")
    assert pieces(session) == [(1, "bc")]
    session.stream(1, "token", "d")
    assert pieces(session) == [(2, "d")]
    assert session.queued_bytes == 0


def test_pieces_of_a_slow_reader_are_dropped_its_terminal_reply_is_kept() -> None:
    session = new_session(SMALL)
    session.begin(1, 0.0)
    session.stream(1, "token", "a" * 100)
    session.stream(1, "token", "b" * 200)
    session.stream(1, "token", "c")
    assert pieces(session) == [(0, "a" * 100), (2, "c")], "the gap in the index shows the loss"
    session.stream(1, "token", "d" * 300)
    session.finish(1, b"x" * 500, 0.0)
    session.stream(1, "token", "late")
    assert frames(session) == [b"x" * 500]


def test_cancel_reaches_the_ask_only_while_it_is_pending() -> None:
    session, handle = new_session(), Handle()
    assert not session.cancel(1)
    session.begin(1, 0.0)
    session.attach(1, handle, has_deadline=False)
    assert session.cancel(1)
    session.finish(1, b"", 0.0)
    assert not session.cancel(1)
    assert handle.num_cancelled == 1


def new_table(limits: Limits | None = None) -> tuple[SessionTable, FakeClock]:
    clock = FakeClock()
    return SessionTable(ServerSettings(limits=limits or Limits()), clock), clock


def test_a_session_moves_to_the_connection_that_names_it() -> None:
    table, _ = new_table()
    old = table.of_peer(PEER)
    old.begin(1, 0.0)
    table.disconnect(old)
    assert old.peer is None
    session, resumed = table.resume(old.token, Peer(b"q", has_delimiter=True))
    assert resumed
    assert session is old
    assert session.peer == Peer(b"q", has_delimiter=True)
    assert table.of_peer(PEER) is old, "what still lay unread in the old connection"
    assert session.peer == Peer(b"q", has_delimiter=True), "replies go to the new one"
    assert len(table) == 1


def test_what_arrives_after_a_connection_was_found_lost_is_its_sessions() -> None:
    table, _ = new_table()
    session = table.of_peer(PEER)
    table.disconnect(session)
    assert table.of_peer(PEER) is session
    session.begin(1, 0.0)
    new = Peer(b"q")
    assert table.resume(session.token, new) == (session, True)
    assert not session.begin(1, 0.0), "sent again by the new connection, done once"
    assert table.of_peer(PEER) is table.of_peer(new) is session
    assert session.peer == new


def test_a_connection_lost_many_times_over_is_still_its_sessions() -> None:
    table, _ = new_table()
    first = Peer(b"0")
    session = table.of_peer(first)
    for number in range(1, 100):
        assert table.resume(session.token, Peer(b"%d" % number)) == (session, True)
    assert table.of_peer(first) is session
    table.close(session)
    assert table.of_peer(first) is not session


def test_former_connections_are_bounded_the_oldest_goes() -> None:
    former, session, other = FormerPeers(), new_session(), new_session()
    for number in range(MAX_FORMER_PEERS + 1):
        former.add(b"%d" % number, session)
    assert former.get(b"0") is None
    assert former.get(b"1") is former.get(b"%d" % MAX_FORMER_PEERS) is session
    former.add(b"1", other)
    former.forget(session)
    assert former.get(b"2") is None
    assert former.get(b"1") is other


def test_replies_do_not_age_while_the_client_is_silent() -> None:
    table, clock = new_table()
    session = table.of_peer(PEER)
    session.begin(1, clock.now_s())
    session.begin(2, clock.now_s())
    session.finish(1, b"one", clock.now_s())
    frames(session)
    clock.advance(59.9)
    table.expire()
    clock.advance(0.6)
    session.finish(2, b"two", clock.now_s())
    new = Peer(b"q")
    assert table.resume(session.token, new) == (session, True)
    table.of_peer(new)
    assert not session.begin(1, clock.now_s()), "it was carried out before the client was gone"
    assert frames(session) == [b"two", b"one"]
    clock.advance(60.1)
    table.of_peer(new)
    assert session.begin(1, clock.now_s())


def test_time_in_which_nobody_was_listened_to_is_no_silence() -> None:
    table, clock = new_table()
    table.of_peer(PEER)
    clock.advance(1000.0)
    table.excuse(1000.0)
    assert table.expire() == 0
    clock.advance(60.1)
    assert table.expire() == 1


def test_who_resumes_needs_no_room() -> None:
    table, _ = new_table(Limits(max_sessions=1))
    session = table.of_peer(PEER)
    new = Peer(b"q")
    table.of_peer(new, session.token)
    assert table.resume(session.token, new) == (session, True)
    assert len(table) == 1
    for stranger in (Peer(b"r", user="else"), Peer(b"s")):
        with pytest.raises(Overloaded):
            table.of_peer(stranger, session.token if stranger.user else "unknown")


def test_the_outbox_names_who_has_something_to_send() -> None:
    table, _ = new_table()
    first, second, _ = (table.of_peer(Peer(name)) for name in (b"a", b"b", b"c"))
    second.tell(b"x")
    first.tell(b"y")
    second.tell(b"z")
    assert table.take_outbox() == [second, first]
    assert table.take_outbox() == []
    first.sent()
    table.disconnect(second)
    table.resume(second.token, Peer(b"d"))
    assert table.take_outbox() == [second], "what it could not be sent before"
    second.tell(b"x")
    table.close(second)
    assert table.take_outbox() == []


def test_an_unknown_session_is_not_resumed() -> None:
    table, _ = new_table()
    session, resumed = table.resume("nobody's", PEER)
    assert not resumed
    assert table.of_peer(PEER) is session
    assert table.resume(session.token, PEER) == (session, True)


def test_a_connection_with_requests_of_its_own_cannot_resume() -> None:
    table, _ = new_table()
    old = table.of_peer(PEER)
    table.of_peer(Peer(b"q")).begin(1, 0.0)
    with pytest.raises(InvalidInput) as caught:
        table.resume(old.token, Peer(b"q"))
    assert caught.value.where == "session"
    assert table.of_peer(PEER) is old


def test_sessions_are_bounded() -> None:
    table, _ = new_table(Limits(max_sessions=1))
    table.of_peer(PEER)
    table.of_peer(PEER)
    with pytest.raises(Overloaded):
        table.of_peer(Peer(b"q"))


def test_a_silent_peer_expires_and_its_asks_are_cancelled() -> None:
    table, clock = new_table()
    session, handle = table.of_peer(PEER), Handle()
    session.begin(1, 0.0)
    session.attach(1, handle, has_deadline=False)
    clock.advance(60.0)
    assert table.expire() == 0
    table.of_peer(PEER)
    clock.advance(60.0)
    assert table.expire() == 0
    clock.advance(0.1)
    assert table.expire() == 1
    assert (len(table), handle.num_cancelled) == (0, 1)
    assert not session.finish(1, b"late", clock.now_s())
    assert table.of_peer(PEER) is not session


def test_a_peer_that_waits_for_a_deadline_does_not_expire() -> None:
    table, clock = new_table()
    session = table.of_peer(PEER)
    session.begin(1, 0.0)
    session.attach(1, Handle(), has_deadline=True)
    clock.advance(1000.0)
    assert table.expire() == 0
    session.finish(1, b"", clock.now_s())
    assert table.expire() == 1


IDS = st.integers(0, 4)


class OneTerminalReply(RuleBasedStateMachine):
    """Whatever happens, a request that was begun is answered once, and again only when repeated."""

    def __init__(self) -> None:
        super().__init__()
        limits = dataclasses.replace(SMALL, max_requests_in_flight=3, max_replay_bytes=10_000)
        self.clock = FakeClock()
        self.table = SessionTable(ServerSettings(limits=limits), self.clock)
        self.session = self.table.of_peer(PEER)
        self.num_peers = 1
        self.begun: Counter[int] = Counter()
        self.finished: Counter[int] = Counter()
        self.repeated: Counter[int] = Counter()
        self.read: Counter[int] = Counter()
        self.pending: set[int] = set()

    @rule(request_id=IDS)
    def begin(self, request_id: int) -> None:
        try:
            is_new = self.session.begin(request_id, self.clock.now_s())
        except Overloaded:
            assert request_id not in self.pending
            return
        if is_new:
            assert request_id not in self.pending
            self.begun[request_id] += 1
            self.pending.add(request_id)
        elif request_id not in self.pending:
            self.repeated[request_id] += 1

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), keep=st.booleans())
    def finish(self, data: st.DataObject, keep: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.pending)))
        frame = msgpack.packb({"id": request_id, "ev": "done"})
        assert self.session.finish(request_id, frame, self.clock.now_s(), keep=keep)
        assert not self.session.finish(request_id, frame, self.clock.now_s(), keep=keep)
        self.pending.remove(request_id)
        self.finished[request_id] += 1

    @rule(request_id=IDS, text=st.text(max_size=80))
    def stream(self, request_id: int, text: str) -> None:
        self.session.stream(request_id, "token", text)

    @rule(num_frames=st.integers(1, 5))
    def deliver(self, num_frames: int) -> None:
        for _ in range(num_frames):
            if (frame := self.session.peek()) is None:
                return
            self.session.sent()
            reply = msgpack.unpackb(frame)
            if reply["ev"] == "done":
                self.read[reply["id"]] += 1

    @rule()
    def reconnect(self) -> None:
        self.num_peers += 1
        self.table.disconnect(self.session)
        peer = Peer(b"%d" % self.num_peers)
        self.table.of_peer(peer)
        assert self.table.resume(self.session.token, peer) == (self.session, True)

    @rule(seconds=st.sampled_from([1.0, 30.0, 59.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.table.of_peer(self.session.peer or PEER)
        assert self.table.expire() == 0

    @invariant()
    def replies_are_as_many_as_requests(self) -> None:
        for request_id in self.begun:
            open_now = request_id in self.pending
            assert self.begun[request_id] == self.finished[request_id] + open_now
            assert self.read[request_id] <= self.finished[request_id] + self.repeated[request_id]
        assert self.session.num_pending == len(self.pending)
        assert len(self.table) == 1

    def teardown(self) -> None:
        self.deliver(1000)
        for request_id in self.begun:
            assert self.read[request_id] >= self.finished[request_id]
        assert self.session.queued_bytes == 0


TestOneTerminalReply = OneTerminalReply.TestCase
TestOneTerminalReply.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""Every operation and every error of the server, without sockets."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgpack
import pytest
from fakes import Desk

from game_agent.errors import InvalidInput, Overloaded
from game_agent.protocol.limits import Limits
from game_agent.protocol.messages import NOT_OFFERED, REQUESTS
from game_agent.protocol.replies import TERMINAL


@pytest.fixture
def desk() -> Desk:
    return Desk()


def brief(reply: dict[str, Any]) -> tuple[Any, ...]:
    return (reply["id"], reply["ev"], reply.get("code"), reply.get("where"))


def test_hello_tells_what_the_server_can_and_allows(desk: Desk) -> None:
    reply = desk.ask_for(id=1, op="hello", client="test", protocol=1)
    assert reply["ev"] == "ok"
    assert reply["protocol"] == 1
    assert not reply["resumed"]
    assert reply["model"] == {
        "name": "fake",
        "max_context_tokens": 1000,
        "modes": ["block", "full"],
    }
    assert set(REQUESTS) < set(reply["capabilities"])
    assert not NOT_OFFERED & set(reply["capabilities"])
    assert reply["limits"]["max_frame_bytes"] == Limits().max_frame_bytes
    assert reply["expiry_ms"] >= 60_000
    assert desk.ask_for(id=1, op="hello")["session"] == reply["session"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"op": "hello", "protocol": 2}, ("unsupported_version", "protocol")),
        ({"op": "hello", "v": 2}, ("unsupported_version", "v")),
        ({"op": "hello", "name": "x"}, ("invalid", "name")),
        ({"op": "dance"}, ("unknown_op", "op")),
        ({"op": 5}, ("invalid", "op")),
        ({"op": "save", "world": "w"}, ("invalid", "op")),
        ({"op": "world.get", "world": "nowhere"}, ("not_found", "world")),
        ({"op": "world.delete", "world": "nowhere"}, ("not_found", "world")),
        ({"op": "world.put", "world": "v", "state": []}, ("invalid", "state")),
        ({"op": "world.put", "world": "v", "state": {}, "partition": []}, ("invalid", "partition")),
        ({"op": "world.patch", "world": "w"}, ("invalid", "patch")),
        ({"op": "world.patch", "world": "w", "patch": [], "merge": {}}, ("invalid", "patch")),
        ({"op": "agent.put", "agent": "x", "world": "w"}, ("invalid", "profile")),
        ({"op": "agent.put", "agent": "x", "world": "?", "profile": ""}, ("not_found", "world")),
        ({"op": "agent.put", "agent": "x", "world": "w", "card": {}}, ("invalid", "card")),
        ({"op": "agent.get", "agent": "x"}, ("not_found", "agent")),
        ({"op": "agent.warm", "agent": "x"}, ("not_found", "agent")),
        ({"op": "agent.observe", "event": "x"}, ("invalid", "agent")),
        ({"op": "ask", "agent": "x", "event": ""}, ("not_found", "agent")),
        ({"op": "ask", "agent": "ann", "event": "", "kind": "act"}, ("invalid", "kind")),
        ({"op": "ask", "agent": "ann", "event": "", "schema": {}}, ("invalid", "schema")),
        ({"op": "ask", "agent": "ann", "event": "", "mode": "half"}, ("invalid", "mode")),
        ({"op": "tick", "world": "?", "tick": 1}, ("not_found", "world")),
    ],
)
def test_a_request_that_fails(
    desk: Desk, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    reply = desk.ask_for(id=1, **fields)
    assert brief(reply) == (1, "error", *expected)
    assert reply["message"]
    assert desk.ask_for(id=2, op="ping")["ev"] == "ok"


def test_worlds(desk: Desk) -> None:
    put = desk.ask_for(id=1, op="world.put", world="v", state={"x": 1, "y": 2}, seq=4)
    assert (put["seq"], put["blocks"]) == (4, 2)
    operation = {"op": "replace", "path": "/x", "value": 5}
    patched = desk.ask_for(id=2, op="world.patch", world="v", seq=5, patch=[operation])
    assert (patched["seq"], patched["blocks"], patched["blocks_changed"]) == (5, 2, 1)
    assert desk.ask_for(id=3, op="world.patch", world="v", merge={"y": 3})["seq"] == 6
    got = desk.ask_for(id=4, op="world.get", world="v")
    assert (got["state"], got["seq"]) == ({"x": 5, "y": 3}, 6)
    assert desk.ask_for(id=5, op="world.delete", world="v")["ev"] == "ok"
    assert desk.ask_for(id=6, op="world.get", world="v")["code"] == "not_found"


def test_a_patch_that_fails_changes_nothing(desk: Desk) -> None:
    patch = [{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/none"}]
    assert desk.ask_for(id=1, op="world.patch", world="w", patch=patch)["code"] == "invalid"
    gap = desk.ask_for(id=2, op="world.patch", world="w", merge={"a": 2}, seq=9)
    assert (gap["code"], gap["expected"]) == ("conflict", 1)
    got = desk.ask_for(id=3, op="world.get", world="w")
    assert (got["state"], got["seq"]) == ({"a": 1}, 0)


def test_agents(desk: Desk) -> None:
    put = {"op": "agent.put", "agent": "cat", "world": "w", "profile": {"age": 3}, "sees": ["/a"]}
    assert desk.ask_for(id=1, **put)["ev"] == "ok"
    assert desk.ask_for(id=2, op="agent.get", agent="cat")["agent"] == "cat"
    assert desk.ask_for(id=3, op="agent.warm", agent="cat")["ev"] == "ok"
    assert desk.runtime.agents["cat"].num_warmed == 1
    observe = {"op": "agent.observe", "event": {"from": "Eve", "text": "hi"}, "game_time": 2}
    assert desk.ask_for(id=4, agents=["ann", "cat"], **observe)["ev"] == "ok"
    assert desk.ask_for(id=5, agents=["bob", "nobody"], **observe)["code"] == "not_found"
    turn = {"text": "Eve: hi", "game_time": 2}
    assert desk.ask_for(id=6, op="agent.history", agent="cat", last=5)["turns"] == [turn]
    assert desk.ask_for(id=7, op="agent.history", agent="ann")["turns"] == [turn]
    assert desk.ask_for(id=8, op="agent.history", agent="bob")["turns"] == []
    assert desk.ask_for(id=9, op="agent.delete", agent="cat")["ev"] == "ok"
    assert desk.ask_for(id=10, op="agent.get", agent="cat")["code"] == "not_found"


def test_an_ask_is_answered_when_it_is_done(desk: Desk) -> None:
    desk.send(id="q", op="ask", agent="ann", event={"from": "Eve", "text": "hi"})
    desk.step()
    assert desk.read() == []
    desk.runtime.finish()
    (done,) = desk.read()
    assert (done["id"], done["ev"], done["text"]) == ("q", "done", "ann heard hi.")
    assert (done["finish_reason"], done["seq"]) == ("stop", 0)
    assert done["usage"]["context_tokens"] == 3
    assert desk.runtime.agents["ann"].speakers == ["Eve"]


def test_a_streamed_ask(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="hi", stream=True, max_tokens=2)
    desk.step()
    (first,) = desk.read()
    assert first == {"v": 1, "id": 1, "ev": "token", "index": 0, "text": "ann "}
    desk.step()
    second, done = desk.read()
    assert (second["index"], second["text"]) == (1, "heard ")
    assert (done["text"], done["finish_reason"]) == ("ann heard ", "length")


def test_an_ask_streamed_by_sentences(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="one. And two", stream="sentence")
    desk.runtime.finish()
    *sentences, done = desk.read()
    # Nothing was read in between, so the first sentence has been joined to the second.
    assert [reply["ev"] for reply in sentences] == ["sentence"]
    assert sentences[0]["text"] == done["text"] == "ann heard one. And two."


def test_each_sentence_is_sent_when_it_ends(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="one. And two", stream="sentence")
    texts = []
    for _ in range(5):
        desk.step()
        texts.append([(reply["ev"], reply["index"], reply["text"]) for reply in desk.read()[:1]])
    # "ann ", "heard ", "one. ", "And ", "two."
    assert texts[:4] == [[], [], [("sentence", 0, "ann heard one. ")], []]
    assert texts[4] == [("sentence", 1, "And two.")]


def test_cancel(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="hi")
    desk.step()
    desk.send(id=2, op="cancel", target=1)
    cancelled, done = desk.read()
    assert (cancelled["id"], cancelled["found"]) == (2, True)
    assert (done["id"], done["finish_reason"], done["text"]) == (1, "cancelled", "ann ")
    assert not desk.ask_for(id=3, op="cancel", target=1)["found"]
    assert not desk.ask_for(id=4, op="cancel", target="other")["found"]


def test_one_client_cannot_cancel_for_another(desk: Desk) -> None:
    desk.send("p", id=1, op="ask", agent="ann", event="hi")
    assert not desk.ask_for("q", id=2, op="cancel", target=1)["found"]
    assert not desk.runtime.asks[0].done


def test_an_ask_that_fails_later(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="hi")
    desk.runtime.asks[0].fail(InvalidInput("too odd", where="event"))
    assert [brief(reply) for reply in desk.read()] == [(1, "error", "invalid", "event")]


def test_a_fault_of_ours_is_internal_and_the_server_goes_on(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    reply = desk.ask_for(id=1, op="ask", agent="ann", event="crash")
    assert brief(reply) == (1, "error", "internal", None)
    assert "as the test wanted" not in reply["message"]
    assert "as the test wanted" in caplog.text
    assert desk.ask_for(id=2, op="ping")["ev"] == "ok"


def ask(request_id: Any, agent: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"id": request_id, "agent": agent, "event": "hi", **fields}


def test_a_tick_answers_first_and_then_its_asks(desk: Desk) -> None:
    desk = Desk(is_instant=True)
    desk.send(id=1, op="tick", world="w", tick=9, merge={"b": 2}, asks=[ask("x"), ask("y", "bob")])
    tick, *answers = desk.read()
    assert (tick["id"], tick["ev"]) == (1, "ok")
    assert (tick["tick"], tick["seq"], tick["blocks_changed"]) == (9, 1, 1)
    assert [(reply["id"], reply["ev"]) for reply in answers] == [("x", "done"), ("y", "done")]


def test_a_tick_may_change_nothing(desk: Desk) -> None:
    tick = desk.ask_for(id=1, op="tick", world="w", tick="t1")
    assert (tick["tick"], tick["seq"], tick["blocks_changed"]) == ("t1", 0, 0)
    assert desk.ask_for(id=2, op="tick", world="w", tick="t2", seq=1)["seq"] == 1
    assert desk.ask_for(id=3, op="tick", world="w", tick="t3", seq=5)["expected"] == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"patch": [{"op": "remove", "path": "/none"}]}, "invalid"),
        ({"merge": {}, "seq": 7}, "conflict"),
        ({"world": "nowhere"}, "not_found"),
        ({"colour": 1}, "invalid"),
        ({"v": 3}, "unsupported_version"),
    ],
)
def test_when_a_tick_fails_so_do_its_asks(desk: Desk, fields: dict[str, Any], code: str) -> None:
    tick = {"op": "tick", "world": "w", "tick": 1, "asks": [ask("x"), {"id": "y"}, 5]}
    desk.send(id=1, **{**tick, **fields})
    replies = desk.read()
    assert [(reply["id"], reply["code"]) for reply in replies] == [(i, code) for i in (1, "x", "y")]
    assert desk.runtime.asks == []


def test_a_bad_ask_of_a_tick_fails_alone(desk: Desk) -> None:
    asks = [ask("a", colour=1), ask("b", "nobody"), ask(True), 5, ask("c", event="crash"), ask("d")]
    desk.send(id=1, op="tick", world="w", tick=1, asks=asks)
    desk.runtime.finish()
    assert [brief(reply) for reply in desk.read()] == [
        (1, "ok", None, None),
        ("a", "error", "invalid", "asks.0.colour"),
        ("b", "error", "not_found", "asks.1.agent"),
        (None, "error", "invalid", "asks.2.id"),
        (None, "error", "invalid", "asks.3.id"),
        ("c", "error", "internal", None),
        ("d", "done", None, None),
    ]


@pytest.mark.parametrize("asks", [[ask("x"), ask("x")], [ask(1)]])
def test_the_ids_of_a_tick_must_differ(desk: Desk, asks: list[Any]) -> None:
    desk.send(id=1, op="tick", world="w", tick=1, merge={"b": 1}, asks=asks)
    replies = desk.read()
    assert {reply["id"] for reply in replies} == {1, *(each["id"] for each in asks)}
    assert len({reply["id"] for reply in replies}) == len(replies)
    assert {reply["code"] for reply in replies} == {"invalid"}
    assert desk.runtime.worlds["w"].state == {"a": 1}


def test_a_repeated_request_is_carried_out_once(desk: Desk) -> None:
    first = desk.ask_for(id=1, op="world.patch", world="w", merge={"b": 1})
    assert desk.ask_for(id=1, op="world.patch", world="w", merge={"b": 1}) == first
    assert desk.runtime.worlds["w"].seq == 1
    for _ in range(2):
        desk.send(id=2, op="ask", agent="ann", event="hi")
    desk.runtime.finish()
    (done,) = desk.read()
    assert desk.ask_for(id=2, op="ask", agent="ann", event="hi") == done
    assert len(desk.runtime.asks) == 1


def test_a_repeated_tick_is_applied_once_and_all_its_replies_return(desk: Desk) -> None:
    desk = Desk(is_instant=True)
    tick = {"id": 1, "op": "tick", "world": "w", "tick": 1, "merge": {"b": 1}, "asks": [ask(2)]}
    desk.send(**tick)
    replies = desk.read()
    assert [reply["ev"] for reply in replies] == ["ok", "done"]
    desk.send(**tick)
    assert desk.read() == replies
    assert (desk.runtime.worlds["w"].seq, len(desk.runtime.asks)) == (1, 1)


def test_a_session_is_resumed_with_what_it_is_owed(desk: Desk) -> None:
    token = desk.ask_for("old", id=1, op="hello")["session"]
    desk.send("old", id=2, op="ask", agent="ann", event="hi", stream=True)
    desk.step()
    desk.sessions.disconnect(next(iter(desk.sessions)))
    desk.step()
    desk.send("new", id=1, op="hello", session=token)
    desk.runtime.finish()
    hello, token_reply, done = desk.read("new")
    assert (hello["resumed"], hello["session"]) == (True, token)
    assert (token_reply["index"], token_reply["text"]) == (0, "ann heard hi.")
    assert done["text"] == "ann heard hi."
    assert desk.ask_for("new", id=2, op="ask", agent="ann", event="hi") == done
    assert not desk.ask_for("third", id=1, op="hello", session="unknown")["resumed"]


def test_a_silent_peer_has_its_asks_cancelled(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="hi")
    desk.clock.advance(61.0)
    desk.sessions.expire()
    assert desk.runtime.asks[0].done
    assert desk.read() == []
    assert desk.ask_for(id=1, op="ping")["ev"] == "ok"


def test_what_is_refused_for_lack_of_room_may_be_tried_again() -> None:
    desk = Desk(Limits(max_requests_in_flight=1))
    desk.send(id=1, op="ask", agent="ann", event="hi")
    full = desk.ask_for(id=2, op="ping")
    assert full["code"] == "overloaded"
    assert full["retry_after_ms"] > 0
    desk.send(id=3, op="tick", world="w", tick=1, merge={"b": 1}, asks=[ask("x")])
    assert [(reply["id"], reply["code"]) for reply in desk.read()] == [
        (3, "overloaded"),
        ("x", "overloaded"),
    ]
    assert desk.runtime.worlds["w"].seq == 0
    desk.runtime.finish()
    assert len(desk.read()) == 1
    assert desk.ask_for(id=2, op="ping")["ev"] == "ok"
    desk.send(id=3, op="tick", world="w", tick=1, merge={"b": 1}, asks=[ask("x")])
    assert [(reply["id"], reply["ev"]) for reply in desk.read()] == [(3, "ok")]


def test_an_overloaded_engine_may_be_asked_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Overloaded("the engine is full", retry_after_ms=7)

    with monkeypatch.context() as patch:
        patch.setattr(desk.runtime.agents["ann"], "ask", refuse)
        reply = desk.ask_for(id=1, op="ask", agent="ann", event="hi")
    assert (reply["code"], reply["retry_after_ms"]) == ("overloaded", 7)
    desk.send(id=1, op="ask", agent="ann", event="hi")
    desk.runtime.finish()
    assert [reply["ev"] for reply in desk.read()] == ["done"]


def test_worlds_agents_and_clients_are_bounded() -> None:
    desk = Desk(Limits(max_worlds=1, max_agents=2, max_sessions=1))
    put = desk.ask_for(id=1, op="world.put", world="v", state={})
    assert brief(put) == (1, "error", "too_large", "world")
    assert desk.ask_for(id=2, op="world.put", world="w", state={})["ev"] == "ok"
    agent = {"op": "agent.put", "world": "w", "profile": ""}
    assert brief(desk.ask_for(id=3, agent="x", **agent)) == (3, "error", "too_large", "agent")
    assert desk.ask_for(id=4, agent="ann", **agent)["ev"] == "ok"
    desk.send("q", id=1, op="ping")
    assert desk.refusal is not None
    assert (desk.refusal["id"], desk.refusal["code"]) == (1, "overloaded")


def test_who_asks_on_without_reading_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(Limits(max_queued_replies=3, max_queued_bytes=1))
    desk.send(id=0, op="ask", agent="ann", event="hi")
    for request_id in range(1, 6):
        desk.send(id=request_id, op="ping")
    assert "without reading" in caplog.text
    assert len(desk.sessions) == 0
    assert desk.runtime.asks[0].done


def test_a_req_socket_cannot_get_more_than_one_reply(desk: Desk) -> None:
    for fields in (
        {"op": "ask", "agent": "ann", "event": "hi", "stream": True},
        {"op": "tick", "world": "w", "tick": 1, "asks": [ask(1)]},
    ):
        desk.send(id=str(fields["op"]), is_req=True, **fields)
        replies = desk.read()
        assert replies[0]["code"] == "invalid"
        assert replies[0]["where"] in ("stream", "asks")
    desk.send(id=5, op="tick", world="w", tick=1, is_req=True)
    assert desk.read()[-1]["ev"] == "ok"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([], "bad_message"),
        ([b""], "bad_message"),
        ([b"\x80", b"\x80"], "bad_message"),
        ([b"\xc1"], "bad_message"),
        ([b"\x80"], "invalid"),
        ([msgpack.packb({"v": 1, "id": None, "op": "ping"})], "invalid"),
        ([msgpack.packb({"v": 1, "id": True, "op": "ping"})], "invalid"),
        ([msgpack.packb({"v": 1, "id": "x" * 65, "op": "ping"})], "invalid"),
    ],
)
def test_a_message_without_a_readable_id(desk: Desk, frames: list[bytes], code: str) -> None:
    desk.send_frames(frames)
    (reply,) = desk.read()
    assert (reply["id"], reply["ev"], reply["code"]) == (None, "error", code)


def test_a_stopping_server_takes_nothing_new(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="hi")
    desk.app.is_draining = True
    assert desk.ask_for(id=2, op="world.get", world="w")["code"] == "unavailable"
    assert desk.ask_for(id=3, op="ping")["ev"] == "ok"
    desk.send(id=4, op="cancel", target=1)
    assert [reply["ev"] for reply in desk.read()] == ["ok", "done"]


def test_stats(desk: Desk) -> None:
    desk.send(id=1, op="ask", agent="ann", event="hi")
    stats = desk.ask_for(id=2, op="stats")
    assert stats["num_asks"] == 1
    assert stats["server"]["num_sessions"] == 1
    assert stats["server"]["num_requests"] == 2
    assert stats["server"]["num_pending"] == 2


SEEDS: list[dict[str, Any]] = [
    {"v": 1, "id": 1, "op": "hello", "client": "x"},
    {"v": 1, "id": 1, "op": "world.put", "world": "w", "state": {"a": {"b": [1, 2.5, None]}}},
    {"v": 1, "id": 1, "op": "world.patch", "world": "w", "merge": {"a": 2}, "seq": 1},
    {"v": 1, "id": 1, "op": "ask", "agent": "ann", "event": "hi", "stream": "sentence"},
    {"v": 1, "id": 1, "op": "tick", "world": "w", "tick": 1, "asks": [ask("x"), ask("y")]},
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

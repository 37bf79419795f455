"""Every operation and every error of the server, without sockets."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from fakes import Desk, an_ask, brief

from game_agent.errors import InvalidInput, Overloaded
from game_agent.protocol.limits import Limits
from game_agent.protocol.messages import REQUESTS
from game_agent.server.session import Peer


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_hello_tells_what_the_server_can_and_allows(desk: Desk) -> None:
    reply = desk.ask_for(id=1, op="hello", client="test", protocol=1)
    assert reply["ev"] == "ok"
    assert reply["protocol"] == 1
    assert not reply["resumed"]
    assert reply["model"] == {
        "name": "fake",
        "max_context_tokens": 1000,
        "modes": ["block", "full", "contextual"],
    }
    assert set(REQUESTS) < set(reply["capabilities"])
    assert reply["limits"]["max_frame_bytes"] == Limits().max_frame_bytes
    assert reply["expiry_ms"] >= 60_000
    assert desk.ask_for(id=1, op="hello")["session"] == reply["session"]


CHOOSE: dict[str, Any] = {"op": "ask", "agent": "ann", "event": "", "kind": "choose"}
PUT: dict[str, Any] = {"op": "agent.put", "agent": "x", "world": "w", "profile": ""}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"op": "hello", "protocol": 2}, ("unsupported_version", "protocol")),
        ({"op": "hello", "v": 2}, ("unsupported_version", "v")),
        ({"op": "hello", "name": "x"}, ("invalid", "name")),
        ({"op": "dance"}, ("unknown_op", "op")),
        ({"op": 5}, ("invalid", "op")),
        ({"op": "save", "world": "nowhere"}, ("not_found", "world")),
        ({"op": "world.get", "world": "nowhere"}, ("not_found", "world")),
        ({"op": "world.delete", "world": "nowhere"}, ("not_found", "world")),
        ({"op": "world.put", "world": "v", "state": []}, ("invalid", "state")),
        ({"op": "world.put", "world": "v", "state": {}, "partition": {}}, ("invalid", "partition")),
        (
            {"op": "world.put", "world": "v", "state": {}, "partition": [{"path": "a"}]},
            ("invalid", "partition.0.path"),
        ),
        ({"op": "world.patch", "world": "w"}, ("invalid", "patch")),
        ({"op": "world.patch", "world": "w", "patch": [], "merge": {}}, ("invalid", "patch")),
        ({"op": "agent.put", "agent": "x", "world": "w"}, ("invalid", "profile")),
        ({"op": "agent.put", "agent": "x", "world": "?", "profile": ""}, ("not_found", "world")),
        ({"op": "agent.put", "agent": "x", "world": "w", "card": {}}, ("invalid", "card.spec")),
        ({"op": "agent.put", "agent": "x", "world": "w", "card": []}, ("invalid", "card")),
        ({"op": "agent.get", "agent": "x"}, ("not_found", "agent")),
        ({"op": "agent.warm", "agent": "x"}, ("not_found", "agent")),
        ({"op": "agent.observe", "event": "x"}, ("invalid", "agent")),
        ({"op": "ask", "agent": "x", "event": ""}, ("not_found", "agent")),
        ({"op": "ask", "agent": "ann", "event": "", "kind": "dance"}, ("invalid", "kind")),
        ({"op": "ask", "agent": "ann", "event": "", "options": ["a"]}, ("invalid", "options")),
        ({"op": "ask", "agent": "ann", "event": "", "normalize": True}, ("invalid", "normalize")),
        ({"op": "ask", "agent": "ann", "event": "", "top_k": -1}, ("invalid", "top_k")),
        ({**CHOOSE}, ("invalid", "options")),
        ({**CHOOSE, "options": []}, ("invalid", "options")),
        ({**CHOOSE, "options": ["a", " "]}, ("invalid", "options.1")),
        ({**CHOOSE, "options": ["a", 3]}, ("invalid", "options.1")),
        ({**CHOOSE, "options": ["a"], "stream": True}, ("invalid", "stream")),
        ({**CHOOSE, "options": ["a"], "schema": {}}, ("invalid", "schema")),
        ({**CHOOSE, "options": ["a"] * 257}, ("too_large", "options")),
        ({**PUT, "actions": [{"name": ""}]}, ("invalid", "actions.0.name")),
        (
            {**PUT, "actions": [{"name": "a", "parameters": {"b": {"values": "c"}}}]},
            ("invalid", "actions.0.parameters.b.values"),
        ),
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
    failed = desk.ask_for(id=1, op="world.patch", world="w", patch=patch)
    assert brief(failed) == (1, "error", "invalid", "patch.0.path")
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
    assert not desk.runtime.agents["cat"].is_kept
    assert desk.ask_for(id=31, op="agent.warm", agent="cat", keep=True)["ev"] == "ok"
    assert desk.runtime.agents["cat"].is_kept
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
    assert desk.runtime.agents["ann"].peers == [desk.sessions.of_peer(Peer(b"p")).token]


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


def test_a_change_that_lay_unread_in_a_lost_connection_is_made_once(desk: Desk) -> None:
    token = desk.ask_for("old", id=1, op="hello")["session"]
    desk.ask_for("old", id=2, op="world.put", world="w", state={})
    desk.sessions.disconnect(next(iter(desk.sessions)))
    change = {"id": 3, "op": "world.patch", "world": "w", "merge": {"a": 1}}
    desk.send("old", **change)
    desk.send("new", id=1, op="hello", session=token)
    desk.send("new", **change)
    hello, *again = desk.read("new")
    assert hello["resumed"]
    assert [reply["seq"] for reply in again] == [1]
    assert desk.ask_for("new", id=4, op="world.get", world="w")["seq"] == 1


def test_a_client_that_was_gone_for_a_minute_makes_no_change_twice(desk: Desk) -> None:
    token = desk.ask_for("old", id=1, op="hello")["session"]
    change = {"id": 2, "op": "world.patch", "world": "w", "merge": {"a": 1}}
    desk.ask_for("old", **change)
    desk.clock.advance(60.5)
    assert desk.ask_for("new", id=3, op="hello", session=token)["resumed"]
    assert desk.ask_for("new", **change)["seq"] == 1
    assert desk.ask_for("new", id=4, op="world.get", world="w")["seq"] == 1


def test_a_client_comes_back_though_there_is_no_room_for_another() -> None:
    desk = Desk(Limits(max_sessions=1))
    token = desk.ask_for("old", id=1, op="hello")["session"]
    reply = desk.ask_for("new", id=1, op="hello", session=token)
    assert (reply["ev"], reply["resumed"], reply["session"]) == ("ok", True, token)
    assert len(desk.sessions) == 1


@pytest.mark.parametrize("wanted", [{}, {"session": "of a server that is gone"}])
def test_a_client_that_was_restarted_under_its_name_begins_anew(
    desk: Desk, wanted: dict[str, str]
) -> None:
    token = desk.ask_for("game", id=1, op="hello")["session"]
    desk.ask_for("game", id=2, op="world.put", world="v", state={"x": 1})
    desk.send("game", id=3, op="ask", agent="ann", event="hi")
    again = desk.ask_for("game", id=1, op="hello", **wanted)
    assert (again["session"] != token, again["resumed"]) == (True, False)
    assert desk.runtime.asks[0].done, "nobody waits for it any more"
    desk.ask_for("game", id=2, op="world.put", world="v", state={"x": 2})
    assert desk.ask_for("game", id=3, op="world.get", world="v")["state"] == {"x": 2}
    assert len(desk.sessions) == 1


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
    desk.send(id=3, op="tick", world="w", tick=1, merge={"b": 1}, asks=[an_ask("x")])
    assert [(reply["id"], reply["code"]) for reply in desk.read()] == [
        (3, "overloaded"),
        ("x", "overloaded"),
    ]
    assert desk.runtime.worlds["w"].seq == 0
    desk.runtime.finish()
    assert len(desk.read()) == 1
    assert desk.ask_for(id=2, op="ping")["ev"] == "ok"
    desk.send(id=3, op="tick", world="w", tick=1, merge={"b": 1}, asks=[an_ask("x")])
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
        {"op": "tick", "world": "w", "tick": 1, "asks": [an_ask(1)]},
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

"""Ticks: a change and the asks that come with it, in one message."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import Desk, FakeAsk, an_ask, brief

from game_agent.errors import Overloaded
from game_agent.protocol.limits import Limits


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_tick_answers_first_and_then_its_asks() -> None:
    desk = Desk(is_instant=True)
    desk.send(
        id=1, op="tick", world="w", tick=9, merge={"b": 2}, asks=[an_ask("x"), an_ask("y", "bob")]
    )
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
    tick = {"op": "tick", "world": "w", "tick": 1, "asks": [an_ask("x"), {"id": "y"}, 5]}
    desk.send(id=1, **{**tick, **fields})
    replies = desk.read()
    assert [(reply["id"], reply["code"]) for reply in replies] == [(i, code) for i in (1, "x", "y")]
    assert desk.runtime.asks == []


def test_a_bad_ask_of_a_tick_fails_alone(desk: Desk) -> None:
    asks = [
        an_ask("a", colour=1),
        an_ask("b", "nobody"),
        an_ask(True),
        5,
        an_ask("c", event="crash"),
        an_ask("d"),
    ]
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


@pytest.mark.parametrize("asks", [[an_ask("x"), an_ask("x")], [an_ask(1)]])
def test_the_ids_of_a_tick_must_differ(desk: Desk, asks: list[Any]) -> None:
    desk.send(id=1, op="tick", world="w", tick=1, merge={"b": 1}, asks=asks)
    replies = desk.read()
    assert {reply["id"] for reply in replies} == {1, *(each["id"] for each in asks)}
    assert len({reply["id"] for reply in replies}) == len(replies)
    assert {reply["code"] for reply in replies} == {"invalid"}
    assert desk.runtime.worlds["w"].state == {"a": 1}


def test_a_repeated_tick_is_applied_once_and_all_its_replies_return() -> None:
    desk = Desk(is_instant=True)
    tick = {"id": 1, "op": "tick", "world": "w", "tick": 1, "merge": {"b": 1}, "asks": [an_ask(2)]}
    desk.send(**tick)
    replies = desk.read()
    assert [reply["ev"] for reply in replies] == ["ok", "done"]
    desk.send(**tick)
    assert desk.read() == replies
    assert (desk.runtime.worlds["w"].seq, len(desk.runtime.asks)) == (1, 1)


def test_a_tick_whose_ask_outlives_its_reply_is_applied_once(desk: Desk) -> None:
    item = {"op": "add", "path": "/b", "value": 1}
    asks = [an_ask(2)]
    tick = {"id": 1, "op": "tick", "world": "w", "tick": 1, "patch": [item], "asks": asks}
    desk.send(**tick)
    assert [reply["id"] for reply in desk.read()] == [1]
    for request_id in range(10, 18):
        desk.clock.advance(10.0)
        desk.ask_for(id=request_id, op="ping")
    desk.send(**tick)
    assert [(reply["id"], reply["seq"]) for reply in desk.read()] == [(1, 1)]
    desk.runtime.finish()
    assert [(reply["id"], reply["ev"]) for reply in desk.read()] == [(2, "done")]
    assert (desk.runtime.worlds["w"].seq, len(desk.runtime.asks)) == (1, 1)


@pytest.mark.parametrize("refuser", ["session", "engine"])
def test_a_repeated_tick_starts_the_ask_that_found_no_room(refuser: str) -> None:
    """``overloaded`` is no reply to keep: the same tick may be sent again, and changes nothing."""
    desk = Desk(Limits(max_requests_in_flight=2 if refuser == "session" else 9))
    ann = desk.runtime.agents["ann"]
    start = ann.ask
    busy = ["x", "y"]

    def ask(event: str, *args: Any, **options: Any) -> FakeAsk:
        if refuser == "engine" and event in busy[1:]:
            raise Overloaded("9 requests wait already", retry_after_ms=1000)
        return start(event, *args, **options)

    ann.ask = ask  # type: ignore[method-assign]
    desk.send(id=9, op="ask", agent="bob", event="long")
    tick = {"id": 1, "op": "tick", "world": "w", "tick": 1, "merge": {"b": 1}}
    tick["asks"] = [an_ask(event, event=event) for event in busy]
    desk.send(**tick)
    assert [brief(reply)[:3] for reply in desk.read()] == [
        (1, "ok", None),
        ("y", "error", "overloaded"),
    ]
    desk.runtime.finish()
    done = desk.read()
    assert {reply["id"] for reply in done} == {9, "x"}
    busy.clear()
    desk.send(**tick)
    desk.runtime.finish()
    assert [(reply["id"], reply["ev"]) for reply in desk.read()] == [
        (1, "ok"),
        ("x", "done"),
        ("y", "done"),
    ]
    assert (desk.runtime.worlds["w"].seq, len(desk.runtime.asks)) == (1, 3)

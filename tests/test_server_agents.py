"""Operations on what agents know and remember, without sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fakes import Desk, FakeRuntime, brief

from game_agent.agents.lore import Lorebook
from game_agent.protocol import messages
from game_agent.protocol.limits import Limits
from game_agent.server.journal import NoJournal
from game_agent.server.operations import Operations
from game_agent.server.state import StateStore
from game_agent.server.state_journal import StateJournal


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_rewind(desk: Desk) -> None:
    for time in (1, 2.5, 3):
        event = {"op": "agent.observe", "agent": "ann", "event": "x", "game_time": time}
        assert desk.ask_for(id=f"o{time}", **event)["ev"] == "ok"
    assert desk.ask_for(id=1, op="agent.rewind", agent="ann", game_time=2.5)["forgotten"] == 1
    turns = desk.ask_for(id=2, op="agent.history", agent="ann")["turns"]
    assert [turn["game_time"] for turn in turns] == [1, 2.5]


def test_a_pinned_event(desk: Desk) -> None:
    observe = {"op": "agent.observe", "agent": "ann", "event": "x", "pin": True}
    assert desk.ask_for(id=1, **observe)["ev"] == "ok"
    assert desk.ask_for(id=2, op="agent.history", agent="ann")["turns"][0]["pinned"]


def test_inspect(desk: Desk) -> None:
    event = {"from": "Eve", "text": "hi"}
    blocks = desk.ask_for(id=1, op="agent.inspect", agent="ann", event=event)["blocks"]
    assert blocks[-1] == {"source": "event", "text": "Eve: hi", "tokens": 3, "cached": False}
    blocks = desk.ask_for(id=2, op="agent.inspect", agent="ann", event="hi")["blocks"]
    assert blocks[-1]["text"] == "Player: hi"
    assert desk.ask_for(id=3, op="agent.inspect", agent="ann")["ev"] == "ok"


def test_lore(desk: Desk) -> None:
    entries = [{"keys": ["bell"], "content": "It rang."}, {"keys": [], "content": "Never told."}]
    put = desk.ask_for(id=1, op="lore.put", world="w", entries=entries, scan_depth=2)
    assert (put["entries"], put["blocks"]) == (2, 1)
    book = desk.runtime.worlds["w"].lore
    assert book is not None
    assert book.scan_depth == 2
    assert book.token_budget is None
    assert desk.ask_for(id=2, op="lore.put", agent="ann", entries=[])["blocks"] == 0
    assert desk.runtime.agents["ann"].lore is not None


def test_heard(desk: Desk) -> None:
    desk.send(id="q", op="ask", agent="ann", event="hi")
    assert desk.ask_for(id=1, op="agent.heard", ask="q", chars=9)["ev"] == "ok"
    assert desk.runtime.asks[0].heard_chars == 9
    desk.runtime.finish()
    assert [reply["ev"] for reply in desk.read()] == ["done"]
    assert desk.ask_for(id=2, op="agent.heard", ask="q", chars=4)["ev"] == "ok"
    assert desk.runtime.asks[0].heard_chars == 4
    other = desk.ask_for("q", id=3, op="agent.heard", ask="q", chars=1)
    assert brief(other) == (3, "error", "not_found", "ask")
    desk.clock.advance(61.0)
    late = desk.ask_for(id=4, op="agent.heard", ask="q", chars=1)
    assert brief(late) == (4, "error", "not_found", "ask")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"op": "agent.heard", "ask": 7, "chars": 1}, ("not_found", "ask")),
        ({"op": "agent.heard", "ask": 7, "chars": -1}, ("invalid", "chars")),
        ({"op": "agent.heard", "agent": "ann", "ask": 7, "chars": 1}, ("invalid", "agent")),
        ({"op": "save", "world": "x"}, ("not_found", "world")),
        ({"op": "save", "world": "w", "part": 1}, ("invalid", "part")),
        ({"op": "save", "world": "w", "part": -1}, ("invalid", "part")),
        ({"op": "load", "data": b"{}"}, ("invalid", "data")),
        ({"op": "load", "data": b"", "part": 1, "parts": 2}, ("invalid", "part")),
        ({"op": "load", "data": b"", "part": 1}, ("invalid", "part")),
        ({"op": "agent.rewind", "agent": "x", "game_time": 1}, ("not_found", "agent")),
        ({"op": "agent.rewind", "agent": "ann"}, ("invalid", "game_time")),
        ({"op": "lore.put", "entries": []}, ("invalid", "world")),
        ({"op": "lore.put", "world": "w", "agent": "ann", "entries": []}, ("invalid", "world")),
        ({"op": "lore.put", "world": "x", "entries": []}, ("not_found", "world")),
        ({"op": "lore.put", "agent": "x", "entries": []}, ("not_found", "agent")),
        ({"op": "lore.put", "world": "w", "entries": ["x"]}, ("invalid", "entries.0")),
        (
            {"op": "lore.put", "world": "w", "entries": [{"keys": [1], "content": ""}]},
            ("invalid", "entries.0.keys"),
        ),
        ({"op": "agent.inspect", "agent": "x"}, ("not_found", "agent")),
        ({"op": "agent.inspect", "agent": "ann", "event": 5}, ("invalid", "event")),
    ],
)
def test_a_request_that_fails(
    desk: Desk, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert brief(desk.ask_for(id=1, **fields)) == (1, "error", *expected)


def test_a_card(desk: Desk) -> None:
    card = {"spec": "chara_card_v2", "data": {"name": "Cat", "character_book": {"entries": []}}}
    put = {"op": "agent.put", "agent": "cat", "world": "w"}
    assert desk.ask_for(id=1, card=card, **put)["ev"] == "ok"
    assert desk.runtime.agents["cat"].persona.character.name == "Cat"
    card["data"]["character_book"] = {"entries": [{"keys": 1}]}  # type: ignore[index]
    failed = desk.ask_for(id=2, card=card, **put)
    where = "card.data.character_book.entries.0.keys"
    assert brief(failed) == (2, "error", "invalid", where)
    both = desk.ask_for(id=3, card=card, profile="", **put)
    assert brief(both) == (3, "error", "invalid", "profile")


def test_save_and_load(desk: Desk) -> None:
    entries = [{"keys": ["bell"], "content": "It rang."}]
    desk.ask_for(id=1, op="lore.put", agent="ann", entries=entries)
    desk.ask_for(id=2, op="agent.observe", agent="ann", event="x", game_time=3)
    saved = desk.ask_for(id=3, op="save", world="w")
    assert (saved["part"], saved["parts"]) == (0, 1)
    desk.ask_for(id=4, op="world.patch", world="w", merge={"a": 2})
    desk.ask_for(id=5, op="agent.rewind", agent="ann", game_time=0)
    desk.ask_for(id=6, op="agent.put", agent="cat", world="w", profile="")
    loaded = desk.ask_for(id=7, op="load", data=saved["data"])
    assert (loaded["world"], loaded["agents"]) == ("w", ["ann", "bob"])
    assert set(desk.runtime.agents) == {"ann", "bob"}
    assert desk.ask_for(id=8, op="world.get", world="w")["state"] == {"a": 1}
    assert len(desk.ask_for(id=9, op="agent.history", agent="ann")["turns"]) == 1
    assert desk.runtime.agents["ann"].lore is not None


def fetch(desk: Desk, peer: str, world: str, between: Callable[[], None]) -> list[bytes]:
    first = desk.ask_for(peer, id="part 0", op="save", world=world)
    parts = [first["data"]]
    for part in range(1, first["parts"]):
        between()
        reply = desk.ask_for(peer, id=f"part {part}", op="save", world=world, part=part)
        assert (reply["part"], reply["parts"]) == (part, first["parts"])
        parts.append(reply["data"])
    return parts


def test_a_save_in_parts_is_of_one_moment() -> None:
    desk = Desk(Limits(max_frame_bytes=2000))
    for number in range(9):
        desk.ask_for(id=number, op="agent.observe", agent="ann", event=f"{number}" * 500)
    whole = desk.runtime.save("w")
    numbers = count(100)

    def meddle() -> None:
        desk.ask_for("q", id=next(numbers), op="agent.observe", agent="ann", event="later")
        desk.ask_for("q", id=next(numbers), op="save", world="w")

    parts = fetch(desk, "p", "w", meddle)
    assert len(parts) > 4
    assert max(map(len, parts)) <= 1000
    assert b"".join(parts) == whole
    for part, data in enumerate(parts):
        load = {"op": "load", "data": data, "part": part, "parts": len(parts)}
        reply = desk.ask_for(id=f"load {part}", **load)
        assert desk.ask_for("q", id=next(numbers), op="ping")["ev"] == "ok"
    assert reply["agents"] == ["ann", "bob"]
    assert desk.runtime.save("w") == whole


def test_parts_out_of_order_are_refused(desk: Desk) -> None:
    data = desk.ask_for(id=1, op="save", world="w")["data"]
    first = desk.ask_for(id=2, op="load", data=data[:9], part=0, parts=3)
    assert (first["part"], first["parts"]) == (0, 3)
    skipped = desk.ask_for(id=3, op="load", data=data[9:], part=2, parts=3)
    assert brief(skipped) == (3, "error", "invalid", "part")
    # It must begin anew, also with the part that was expected.
    assert desk.ask_for(id=4, op="load", data=data[9:], part=1, parts=3)["code"] == "invalid"
    assert desk.ask_for(id=5, op="load", data=data[:9], part=0, parts=2)["ev"] == "ok"
    assert desk.ask_for(id=6, op="load", data=data[9:], part=1, parts=2)["world"] == "w"
    last = desk.ask_for(id=7, op="save", world="w", part=0)
    assert desk.ask_for(id=8, op="save", world="w", part=last["parts"])["code"] == "invalid"


def test_a_load_is_bounded() -> None:
    desk = Desk(Limits(max_save_bytes=1000, max_agents=2))
    too_long = desk.ask_for(id=1, op="load", data=bytes(600), part=0, parts=2)
    assert too_long["ev"] == "ok"
    too_long = desk.ask_for(id=2, op="load", data=bytes(600), part=1, parts=2)
    assert brief(too_long) == (2, "error", "too_large", "data")
    desk.runtime.world("v", {})
    desk.runtime.agent("cat", world="v", profile="")
    too_many = desk.ask_for(id=3, op="load", data=desk.runtime.save("v"))
    assert too_many["code"] == "too_large"
    assert desk.ask_for(id=4, op="load", data=desk.runtime.save("w"))["code"] == "too_large"


class Notes(NoJournal):
    def __init__(self) -> None:
        self.requests: list[messages.Request] = []

    def record(self, request: messages.Request) -> None:
        self.requests.append(request)


def test_a_load_is_written_down_as_the_requests_that_make_it() -> None:
    desk = Desk()
    card = {"spec": "chara_card_v2", "data": {"name": "Cat"}}
    book = Lorebook({"entries": [], "scan_depth": 2})
    desk.runtime.agent("cat", world="w", card=card, memory_tokens=9, recall=2, summarize=True)
    desk.runtime.worlds["w"].lore = desk.runtime.agents["cat"].lore = book
    saved = desk.runtime.save("w")
    desk.runtime.agent("dog", world="w", profile="")
    notes = Notes()
    desk.use(desk.runtime, notes)
    desk.ask_for(id=1, op="load", data=saved)
    told = [(type(request).__name__, getattr(request, "agent", "")) for request in notes.requests]
    assert told == [
        ("AgentDelete", "dog"),
        ("WorldPut", ""),
        ("AgentPut", "ann"),
        ("AgentPut", "bob"),
        ("AgentPut", "cat"),
        ("Load", ""),
    ]
    made = notes.requests[4]
    assert isinstance(made, messages.AgentPut)
    assert (made.profile, made.card) == (None, card)
    assert (made.memory_tokens, made.recall, made.summarize) == (9, 2, True)


def test_rules_of_a_world(desk: Desk) -> None:
    rules = [{"path": "/a", "do": "omit"}]
    put = {"op": "world.put", "world": "w", "state": {"a": 1}, "partition": rules}
    assert desk.ask_for(id=1, **put)["ev"] == "ok"
    assert [rule.path for rule in desk.runtime.worlds["w"].rules] == ["/a"]


@contextmanager
def durable(folder: Path) -> Iterator[Desk]:
    """A server on a state folder, up to its crash."""
    desk = Desk()
    runtime = FakeRuntime(is_instant=True)
    store = StateStore(folder)
    journal = StateJournal(runtime, Operations(runtime, Limits()), store)
    journal.restore()
    desk.use(runtime, journal)
    try:
        yield desk
        journal.commit()
    finally:
        store.close()


def test_what_was_loaded_and_how_it_is_cut_survives_a_crash(tmp_path: Path) -> None:
    rules = [{"path": "/a", "do": "join"}]
    entries = [{"keys": ["bell"], "content": "It rang."}]
    with durable(tmp_path) as desk:
        desk.ask_for(id=1, op="world.put", world="w", state={"a": 1}, partition=rules)
        desk.ask_for(id=2, op="world.put", world="w", state={"a": 2})
        card = {"spec": "chara_card_v2", "data": {"name": "Cat"}}
        desk.ask_for(id=3, op="agent.put", agent="cat", world="w", card=card)
        desk.ask_for(id=4, op="lore.put", agent="cat", entries=entries)
        desk.ask_for(id=5, op="agent.observe", agent="cat", event="x", pin=True)
        saved = desk.ask_for(id=6, op="save", world="w")["data"]
        desk.ask_for(id=7, op="world.put", world="w", state={"a": 3}, partition=[])
        desk.ask_for(id=8, op="lore.put", world="w", entries=entries)
        desk.ask_for(id=9, op="agent.put", agent="dog", world="w", profile="")
        desk.ask_for(id=10, op="agent.put", agent="cat", world="w", profile="")
        desk.ask_for(id=11, op="agent.rewind", agent="cat", game_time=-1)
        assert desk.ask_for(id=12, op="load", data=saved)["agents"] == ["cat"]
    with durable(tmp_path) as desk:
        assert desk.runtime.save("w") == saved
        assert set(desk.runtime.agents) == {"cat"}

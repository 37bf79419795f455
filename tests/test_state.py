"""What a server keeps in its state folder, without sockets."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import Desk, FakeRuntime
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.config import EngineSettings
from game_agent.errors import Unavailable
from game_agent.protocol.limits import Limits
from game_agent.protocol.messages import parse
from game_agent.runtime import Runtime
from game_agent.server.operations import Operations
from game_agent.server.session import Peer
from game_agent.server.settings import ServerSettings
from game_agent.server.state import (
    MAX_LOG_PATCHES,
    Patch,
    SavedMemory,
    SavedReply,
    StateStore,
)
from game_agent.server.state_journal import StateJournal, open_journal

SMALL = EngineSettings(kv_memory_bytes=2**22)


class DurableDesk(Desk):
    """A server on a state folder. It has no worlds but those that it finds there."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        runtime = FakeRuntime(is_instant=True)
        self.store = StateStore(folder)
        self.journal = StateJournal(runtime, Operations(runtime, Limits()), self.store)
        self.use(runtime, self.journal)


@contextmanager
def desk(folder: Path) -> Iterator[DurableDesk]:
    """A server from its start to a crash: what was not committed is lost."""
    desk = DurableDesk(folder)
    try:
        desk.journal.restore()
        yield desk
    finally:
        desk.store.close()


def picture(runtime: FakeRuntime) -> dict[str, Any]:
    """All that must survive."""
    return {
        "worlds": {name: (world.state, world.seq) for name, world in runtime.worlds.items()},
        "lore": [
            sorted((each.name, each.lore.entries) for each in owners.values() if each.lore)
            for owners in (runtime.worlds, runtime.agents)
        ],
        "agents": {name: agent.memory.to_value() for name, agent in runtime.agents.items()},
    }


NAMES = st.sampled_from(["a", "b"])
VALUES = st.integers(0, 5)
REQUESTS = st.one_of(
    st.builds(
        lambda w, x, q: {"op": "world.put", "world": w, "state": {"x": x}, "seq": q},
        *(NAMES, VALUES, VALUES),
    ),
    st.builds(lambda w, x: {"op": "world.patch", "world": w, "merge": {"y": x}}, NAMES, VALUES),
    st.builds(
        lambda w, x: {"op": "tick", "world": w, "tick": 1, "patch": [replace("/x", x)]},
        *(NAMES, VALUES),
    ),
    st.builds(
        lambda w, k: {"op": "lore.put", "world": w, "entries": [lore_entry(k)]}, NAMES, NAMES
    ),
    st.builds(
        lambda n, k: {"op": "lore.put", "agent": n, "entries": [lore_entry(k)]}, NAMES, NAMES
    ),
    st.builds(lambda w: {"op": "world.delete", "world": w}, NAMES),
    st.builds(
        lambda n, w: {"op": "agent.put", "agent": n, "world": w, "profile": "p"}, NAMES, NAMES
    ),
    st.builds(lambda n: {"op": "agent.delete", "agent": n}, NAMES),
    st.builds(
        lambda n, t: {"op": "agent.observe", "agent": n, "event": "e", "game_time": t},
        *(NAMES, VALUES),
    ),
    st.builds(lambda n, t: {"op": "agent.rewind", "agent": n, "game_time": t}, NAMES, VALUES),
    st.builds(lambda n: {"op": "ask", "agent": n, "event": "hello"}, NAMES),
    st.just({"op": "commit"}),
    st.just({"op": "crash"}),
)


def replace(path: str, value: int) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def lore_entry(key: str) -> dict[str, Any]:
    entry = {"keys": [key], "content": f"About {key}.", "enabled": True, "insertion_order": 1}
    return {**entry, "extensions": {}}


@settings(deadline=None, max_examples=25)
@given(st.lists(REQUESTS, max_size=40))
def test_what_was_committed_survives_and_nothing_else(requests: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        waiting = list(enumerate(requests))
        expected = picture(FakeRuntime())
        while waiting:
            with desk(folder) as server:
                assert picture(server.runtime) == expected
                while waiting:
                    number, fields = waiting.pop(0)
                    if fields["op"] == "crash":
                        break
                    if fields["op"] == "commit":
                        server.journal.commit()
                        expected = picture(server.runtime)
                    else:
                        server.send(id=number, **fields)
                        server.run_posted()
        with desk(folder) as server:
            assert picture(server.runtime) == expected


def put_world(server: DurableDesk, **state: Any) -> None:
    assert server.ask_for(id="put", op="world.put", world="w", state=state)["ev"] == "ok"


def test_a_patch_repeated_after_a_restart_is_not_applied_twice(tmp_path: Path) -> None:
    append = [{"op": "add", "path": "/list/-", "value": 1}]
    with desk(tmp_path) as server:
        put_world(server, list=[])
        for seq in (1, 2):
            server.send(id=seq, op="world.patch", world="w", patch=append, seq=seq)
        server.journal.commit()
    with desk(tmp_path) as server:
        again = server.ask_for(id=9, op="world.patch", world="w", patch=append, seq=2)
        assert (again["ev"], again["seq"]) == ("ok", 2)
        assert server.runtime.worlds["w"].state == {"list": [1, 1]}
        other = server.ask_for(id=10, op="world.patch", world="w", patch=[], seq=2)
        assert (other["code"], other["expected"]) == ("conflict", 3)


def test_a_tick_costs_what_it_changes_and_the_log_stays_short(tmp_path: Path) -> None:
    big = {"text": ["x" * 100] * 4000, "n": 0}
    folder_bytes = []
    with desk(tmp_path) as server:
        put_world(server, **big)
        server.journal.commit()
        changes = server.store._database.total_changes
        for number in range(1, 2 * MAX_LOG_PATCHES + 10):
            server.send(id=number, op="tick", world="w", tick=number, merge={"n": number})
            server.journal.commit()
            if number == 50:
                # The patch and the reply, a row each.
                assert server.store._database.total_changes == changes + 100
            folder_bytes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        assert len(server.store.worlds()[0].patches) < MAX_LOG_PATCHES
    assert folder_bytes[49] - folder_bytes[0] < 50 * 20_000, "a page or two for each"
    with desk(tmp_path) as server:
        assert server.runtime.worlds["w"].state == {**big, "n": number}


def test_large_patches_bring_the_snapshot_early(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.put_world("w", {}, {}, 0)
    for seq in range(1, 10):
        store.add_patch("w", {}, Patch(seq, "merge", {"x": "y" * 30_000}), {"before": seq})
    (world,) = store.worlds()
    assert 1 <= len(world.patches) <= 4
    assert world.state == {"before": world.seq + 1}
    assert [patch.seq for patch in world.patches] == list(range(world.seq + 1, 10))
    store.close()


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    with pytest.raises(Unavailable, match="another server"):
        StateStore(tmp_path)
    store.close()
    StateStore(tmp_path).close()


def test_a_file_that_is_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"not a database, but long enough to be read" * 100)
    with pytest.raises(Unavailable, match="state.sqlite"):
        StateStore(tmp_path)


def test_a_file_of_another_version_is_an_error(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "state.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(Unavailable, match="another version"):
        StateStore(tmp_path)


def test_what_cannot_be_written_is_never_acknowledged(tmp_path: Path) -> None:
    with desk(tmp_path) as server:
        put_world(server, x=1)
        server.journal.commit()
        server.store._database.execute("PRAGMA query_only = ON")
        server.send(id=1, op="world.patch", world="w", merge={"x": 2})
        with pytest.raises(Unavailable, match="state.sqlite"):
            server.journal.commit()
        with pytest.raises(Unavailable):
            server.journal.commit()
    with desk(tmp_path) as server:
        assert server.runtime.worlds["w"].state == {"x": 1}


def test_a_loaded_save_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    with desk(tmp_path) as server:
        put_world(server, x=1)
        for name in ("ann", "bob"):
            server.ask_for(id=name, op="agent.put", agent=name, world="w", profile="p")
            if name == "ann":
                saved = server.ask_for(id=1, op="save", world="w")["data"]
        server.ask_for(id=2, op="lore.put", world="w", entries=[lore_entry("a")])
        server.ask_for(id=3, op="agent.observe", agent="ann", event="later")
        server.ask_for(id=4, op="world.patch", world="w", merge={"x": 2})
        server.journal.commit()
        assert server.ask_for(id=5, op="load", data=saved)["agents"] == ["ann"]
        server.journal.commit()
        expected = picture(server.runtime)
    with desk(tmp_path) as server:
        assert picture(server.runtime) == expected
        assert expected["agents"].keys() == {"ann"}
        assert expected["worlds"] == {"w": ({"x": 1}, 0)}
        assert expected["lore"] == [[], []]
        assert expected["agents"]["ann"]["turns"] == []


def test_what_was_heard_of_an_answer_survives_and_costs_only_its_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path) as server:
        put_world(server, x=1)
        for name in ("ann", "bob"):
            server.ask_for(id=name, op="agent.put", agent=name, world="w", profile="p")
        server.ask_for(id=1, op="ask", agent="ann", event="hi")
        server.journal.commit()
        looked_at: list[str] = []
        find = server.runtime.get_agent
        monkeypatch.setattr(
            server.runtime, "get_agent", lambda name: (looked_at.append(name), find(name))[1]
        )
        assert server.ask_for(id=2, op="agent.heard", ask=1, chars=4)["ev"] == "ok"
        server.runtime.agents["ann"].memory.heard(0, 4)  # what a real ask does
        server.journal.commit()
        assert looked_at == ["ann"]
    with desk(tmp_path) as server:
        (turn,) = server.runtime.agents["ann"].memory.turns()
        assert turn.reply == "ann"


def put(value: dict[str, Any], path: str, new: Any) -> None:
    """Set what ``path`` (``world/seq``) names."""
    *parents, last = path.split("/")
    place: Any = value
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = new


BOOK = {"entries": [lore_entry("a")]}


@pytest.mark.parametrize(
    "changes",
    [
        {"world/seq": 2**53},
        {"world/lore": {**BOOK, "scan_depth": -1, "token_budget": -1}},
        {"world/lore": {**BOOK, "scan_depth": 4.5, "token_budget": 1e300}},
        {"agents/0/lore": {"entries": [], "scan_depth": 1e300}},
        {"agents/0/lore": {"entries": [], "recursive_scanning": True}},
        {"agents/0/memory/next_index": 2**53, "agents/0/memory/turns/0/text": "another"},
        {"agents/0/memory_tokens": 2**53},
        {"agents/0/memory/turns/0/game_time": 1e308},
    ],
)
def test_a_save_that_is_loaded_is_found_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    with desk(tmp_path) as server:
        put_world(server, x=1)
        server.ask_for(id=2, op="agent.put", agent="ann", world="w", profile="p")
        server.ask_for(id=3, op="agent.observe", agent="ann", event="rain")
        server.journal.commit()
        saved = json.loads(server.ask_for(id=4, op="save", world="w")["data"])
        for path, value in changes.items():
            put(saved, path, value)
        assert server.ask_for(id=5, op="load", data=json.dumps(saved).encode())["ev"] == "ok"
        server.ask_for(id=6, op="agent.observe", agent="ann", event="snow")
        server.journal.commit()
        expected = picture(server.runtime)
        books = [
            (book.scan_depth, book.token_budget, book.is_recursive)
            for book in (server.runtime.worlds["w"].lore, server.runtime.agents["ann"].lore)
            if book is not None
        ]
    with desk(tmp_path) as server:
        assert picture(server.runtime) == expected
        for book in (server.runtime.worlds["w"].lore, server.runtime.agents["ann"].lore):
            if book is not None:
                assert books.pop(0) == (book.scan_depth, book.token_budget, book.is_recursive)
        assert not books


@pytest.mark.parametrize(
    "path", ["world/seq", "agents/0/memory/next_index", "agents/0/memory_tokens"]
)
def test_a_save_with_numbers_that_could_not_be_written_is_refused(
    tmp_path: Path, path: str
) -> None:
    with desk(tmp_path) as server:
        put_world(server, x=1)
        server.ask_for(id=2, op="agent.put", agent="ann", world="w", profile="p")
        saved = json.loads(server.ask_for(id=4, op="save", world="w")["data"])
        for number in (2**53 + 1, 2**63, 2**64 - 1, 10**30):
            put(saved, path, number)
            reply = server.ask_for(id=f"{number}", op="load", data=json.dumps(saved).encode())
            assert (reply["ev"], reply.get("code")) == ("error", "invalid")
            assert reply["where"].startswith("data.")
        server.journal.commit()


def test_summaries_come_back_and_so_do_turns_of_a_version_without_them(tmp_path: Path) -> None:
    old = {"kind": "event", "speaker": "", "text": "x", "reply": None, "game_time": 1, "index": 0}
    with desk(tmp_path) as server:
        put_world(server, x=1)
        server.ask_for(id=1, op="agent.put", agent="ann", world="w", profile="p")
        server.journal.commit()
    store = StateStore(tmp_path)
    store.put_memory("ann", SavedMemory(1, 1, [old]))
    store.commit()
    store.close()
    with desk(tmp_path) as server:
        # Only the new turn is written: the old one stays as it was.
        server.ask_for(id=2, op="agent.observe", agent="ann", event="y", game_time=2)
        server.journal.commit()
    with desk(tmp_path) as server:
        memory = server.runtime.agents["ann"].memory
        assert [(turn.text, turn.summary) for turn in memory.turns()] == [("x", None), ("y", None)]
        memory.sum_up(1, "All of it.")
        server.ask_for(id=3, op="agent.observe", agent="ann", event="z", game_time=3)
        server.journal.commit()
    with desk(tmp_path) as server:
        memory = server.runtime.agents["ann"].memory
        assert [turn.summary for turn in memory.turns()] == [None, "All of it.", None]
        assert memory.summed_up == memory.turns()[1]


def test_a_real_runtime_comes_back_with_what_a_card_brought(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    book = {"entries": [lore_entry("card")], "extensions": {}}
    data = {"name": "Ann", "description": "d", "character_book": book}
    card = {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}
    requests: list[dict[str, Any]] = [
        {"op": "world.put", "world": "w", "state": {"x": [1, 2]}, "seq": 3},
        {"op": "agent.put", "agent": "ann", "world": "w", "profile": "p"},
        {"op": "lore.put", "agent": "ann", "entries": [lore_entry("before")]},
        {"op": "agent.put", "agent": "ann", "world": "w", "card": card, "sees": ["/x"]},
        {"op": "agent.observe", "agent": "ann", "event": "rain", "game_time": 1.5, "pin": True},
        {"op": "world.patch", "world": "w", "merge": {"y": 1}, "seq": 4},
    ]
    saves = []
    for _ in range(2):
        store = StateStore(tmp_path)
        with Runtime.load(tiny_checkpoint, settings=SMALL) as runtime:
            operations = Operations(runtime, Limits())
            journal = StateJournal(runtime, operations, store)
            journal.restore()
            while requests:
                request = parse({"v": 1, "id": 1, **requests.pop(0)})
                operations.run(request)
                journal.record(request)
            journal.commit()
            saves.append(json.loads(runtime.save("w")))
        journal.close()
    assert saves[0] == saves[1]
    assert "About card." in str(saves[1])
    assert "About before." not in str(saves[1])


def test_replies_are_on_disk_as_long_as_they_are_kept(tmp_path: Path) -> None:
    with desk(tmp_path) as server:
        server.send(id=1, op="world.put", world="w", state={})
        server.send(id=2, op="world.get", world="w")
        server.send(id=3, op="agent.put", agent="ann", world="w", profile="")
        server.clock.advance(server.settings.replay_s - 1)
        server.send(id="4", op="agent.observe", agent="ann", event="x")
        server.send(id=5, op="agent.observe", agent="nobody", event="x")
        server.journal.commit()
        token = server.sessions.of_peer(Peer(b"p")).token
    with desk(tmp_path) as server:
        replies = server.journal.replies(server.clock.now_s())
        assert [(r.session, r.id) for r in replies] == [(token, 1), (token, 3), (token, "4")]
        server.clock.advance(server.settings.replay_s + 1)
        server.send(id=9, op="agent.observe", agent="ann", event="y")
        server.journal.commit()
        assert [reply.id for _, reply in server.store.replies()] == [9]


def test_of_a_session_that_expired_no_late_reply_is_left_alone(tmp_path: Path) -> None:
    with desk(tmp_path) as server:
        server.runtime.is_instant = False
        for fields in (
            {"op": "world.put", "world": "w", "state": {}},
            {"op": "agent.put", "agent": "ann", "world": "w", "profile": ""},
            {"op": "ask", "agent": "ann", "event": "hi"},
        ):
            server.send(id=fields["op"], **fields)
        server.clock.advance(61.0)
        assert server.sessions.expire() == 1
        for call in server.posted:
            call()
        server.journal.commit()
        assert server.runtime.asks[0].done
    with desk(tmp_path) as server:
        replies = server.journal.replies(server.clock.now_s())
        assert [reply.id for reply in replies] == ["world.put", "agent.put"]


def test_a_folder_holds_replies_as_long_as_a_silent_client_may_come_back(tmp_path: Path) -> None:
    settings = ServerSettings(state_dir=tmp_path, replay_s=10.0)
    journal = open_journal(FakeRuntime(), settings)
    for number, now_s in enumerate((0.0, 0.2, 70.1)):
        journal.answer(SavedReply("token", "", number, b""), now_s)
    journal.commit()
    journal.close()
    journal = open_journal(FakeRuntime(), settings)
    assert [reply.id for reply in journal.replies(0.0)] == [1, 2]
    journal.close()

"""The soak's schedule, its account of replies, and a short run of the whole."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from fakes import FakeRuntime
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import running

from game_agent.errors import GameAgentError, InvalidInput
from game_agent.soak.load import Load
from game_agent.soak.report import page
from game_agent.soak.run import Target, soak
from game_agent.soak.schedule import PHASES, SoakSettings, schedule, spans

SHORT = SoakSettings(
    duration_s=3.5,
    num_agents=4,
    ticks_per_s=10,
    asks_per_s=12,
    context_tokens=300,
    max_tokens=4,
    deadline_ms=20_000,
)


@settings(deadline=None, max_examples=30)
@given(
    duration_s=st.floats(1, 1000),
    asks_per_s=st.floats(0.1, 20),
    ticks_per_s=st.floats(0.5, 30),
    seed=st.integers(0, 100),
)
def test_a_schedule_is_fixed_in_advance(
    duration_s: float, asks_per_s: float, ticks_per_s: float, seed: int
) -> None:
    load = SoakSettings(
        duration_s=duration_s, asks_per_s=asks_per_s, ticks_per_s=ticks_per_s, seed=seed
    )
    events = schedule(load)
    assert events == schedule(load)
    assert [e.at_s for e in events] == sorted(e.at_s for e in events)
    ticks = [e for e in events if e.kind == "tick"]
    assert [e.number for e in ticks] == list(range(len(ticks)))
    assert all(e.at_s == pytest.approx(e.number / ticks_per_s) for e in ticks)
    asks = {e.number: e.at_s for e in events if e.kind == "ask"}
    cancels = [e for e in events if e.kind == "cancel"]
    assert all(e.at_s >= asks[e.number] for e in cancels)
    assert len({e.number for e in cancels}) == len(cancels)


def test_phases_share_the_time() -> None:
    assert Counter(span.phase for span in spans(600)) == dict.fromkeys(PHASES, 4)
    assert spans(600)[-1].end_s == pytest.approx(600)
    assert [span.phase for span in spans(1)] == list(PHASES)


def test_asks_come_at_the_rate_and_in_the_manner_of_their_phase() -> None:
    asks: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for event in schedule(SoakSettings(duration_s=7000, asks_per_s=10)):
        if event.kind == "ask":
            asks[event.phase].append(event.at_s)
    for phase in ("steady", "updates", "bursts", "encodes", "cancels", "reconnects"):
        assert len(asks[phase]) == pytest.approx(10_000, rel=0.1)
    assert len(asks["idle"]) == pytest.approx(2500, rel=0.2)
    assert set(Counter(asks["bursts"]).values()) == {8}
    assert set(Counter(asks["steady"]).values()) == {1}


@pytest.mark.parametrize("field", ["duration_s", "num_agents", "asks_per_s", "ticks_per_s"])
def test_settings_are_checked(field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SoakSettings(**{field: 0})
    assert caught.value.where == field


@contextmanager
def answering(change: Any) -> Iterator[str]:
    """A server whose terminal replies to asks go through ``change``: reply -> replies."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            if not router.poll(50):
                continue
            peer, frame = router.recv_multipart()
            request = msgpack.unpackb(frame)
            reply = {"v": 1, "id": request["id"], "ev": "ok", "session": "s", "model": {}}
            replies = [{**reply, "resumed": True}]
            if request["op"] == "ask":
                end = {**reply, "ev": "done", "text": "", "finish_reason": "stop"}
                replies = change({**end, "usage": {"context_tokens": 1}})
            for each in replies:
                router.send_multipart([peer, msgpack.packb(each)])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        is_over.set()
        thread.join()
        context.destroy(linger=0)


def error(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**reply, "ev": "error", "code": "internal", "message": "as the test wanted"}]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda reply: [reply], None),
        (lambda reply: [], "dropped"),
        (lambda reply: [reply, reply], "doubled"),
        (lambda reply: [{**reply, "text": "x"}], "broken_texts"),
        (lambda reply: [{**reply, "finish_reason": "deadline"}], "deadline_misses"),
        (error, "errors"),
    ],
)
def test_faults_of_a_server_are_counted(
    change: Any, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("game_agent.soak.load.LAST_REPLIES_S", 0.3)
    with answering(change) as endpoint:
        load = Load(
            endpoint,
            SoakSettings(duration_s=0.7, asks_per_s=60, ticks_per_s=20, deadline_ms=60_000),
        )
        load.set_up()
        load.run(lambda at_s: None)
        load.close()
    counts = load.counts
    assert counts.kinds["ask"] > 10
    found = {
        name
        for name in ("dropped", "doubled", "broken_texts", "deadline_misses", "errors")
        if getattr(counts, name)
    }
    assert found == ({fault} if fault else set())
    assert counts.is_clean == (fault in (None, "deadline_misses"))


def test_a_server_that_refuses_the_game_is_an_error() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server:
        load = Load(server.endpoint, SoakSettings(num_agents=5000))
        with pytest.raises(GameAgentError, match="refused the game"):
            load.set_up()
        load.close()


def test_a_short_soak_of_a_server_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    serve_args = ["--model", str(tiny_checkpoint), "--threads", "1", "--kv-memory", "0.1"]
    seen: list[float] = []
    result = soak(SHORT, tmp_path, serve_args=serve_args, progress=seen.append)
    assert json.loads((tmp_path / "soak.json").read_text()) == json.loads(json.dumps(result))
    counts = result["counts"]
    assert (counts["dropped"], counts["doubled"], counts["broken_texts"]) == (0, 0, 0)
    assert counts["errors"] == {}
    assert result["is_clean"]
    assert counts["answered"] == counts["sent"]
    assert counts["reconnects"] >= 1
    assert counts["finish_reasons"]["length"] > 0
    assert result["latencies"]["ttft"]["all"]["count"] > 20
    assert set(result["latencies"]["tick"]) == {"all", *PHASES}
    assert result["samples"][0]["rss_bytes"] > 2**20
    assert seen[0] == 0
    assert "<polyline" in (tmp_path / "soak.html").read_text()


def test_a_soak_of_a_server_that_runs_already(tmp_path: Path) -> None:
    load = SoakSettings(duration_s=1.4, num_agents=4, asks_per_s=20, ticks_per_s=10)
    with running(FakeRuntime(is_instant=True)) as server:
        result = soak(load, tmp_path, target=Target(server.endpoint))
    assert result["is_clean"]
    assert result["samples"] == []
    assert "Clean" in page(result)
    assert "NOT CLEAN" in page({**result, "is_clean": False})

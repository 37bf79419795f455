"""The live view of a server."""

from __future__ import annotations

import io

from fakes import FakeRuntime
from rich.console import Console
from serving import running

from game_agent.client import Client
from game_agent.top import top, view


def text_of(now: dict[str, object], before: dict[str, object], elapsed_s: float) -> dict[str, str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(view(now, before, elapsed_s))
    rows = [line.strip("│ ").split("│") for line in stream.getvalue().splitlines() if "│" in line]
    return {title.strip(): value.strip() for title, value in rows}


def test_rates_and_shares() -> None:
    now = {
        **{"generated_tokens": 300, "blocks_asked": 8, "blocks_encoded": 2, "pages": 10},
        **{"pages_free": 4, "ttft_ms": {"p50": 5.2, "p99": 40.0, "max": 41.0}},
        "refused": {"no_key": 2, "foreign_key": 1},
    }
    shown = text_of(now, {"generated_tokens": 100}, 4.0)
    assert shown["generated tokens per s"] == "50.0"
    assert shown["TTFT p99"] == "40 ms"
    assert shown["blocks found encoded"] == "75.0%"
    assert shown["KV pages in use"] == "6 of 10"
    assert shown["refused"] == "3"


def test_a_server_that_has_done_nothing_yet() -> None:
    shown = text_of({}, {}, 1.0)
    assert shown["TTFT p50"] == shown["blocks found encoded"] == "-"


def test_a_running_server() -> None:
    stream = io.StringIO()
    with running(FakeRuntime()) as server, Client(server.endpoint) as client:
        top(client, Console(file=stream, width=80), every_s=0.01, num_views=2)
    assert "KV pages in use" in stream.getvalue()

"""Figures for Prometheus, the health check, and structured logs."""

from __future__ import annotations

import io
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from fakes import FakeRuntime
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from serving import running

from game_agent.client import Client
from game_agent.errors import InvalidInput, Unavailable
from game_agent.metrics import BOUNDS_S, EngineMetrics, Histogram
from game_agent.protocol.codec import decode_reply, encode
from game_agent.server import ServerSettings
from game_agent.server.logs import JsonFormatter, set_up_logs
from game_agent.server.metrics_http import MetricsServer


@dataclass(frozen=True)
class SomeUsage:
    cached_tokens: int = 10
    encoded_tokens: int = 5
    prefill_tokens: int = 3
    generated_tokens: int = 5
    blocks: int = 4
    blocks_encoded: int = 1
    flops: int = 700
    full_flops: int = 1000
    queue_ms: float = 2.0
    ttft_ms: float = 20.0
    total_ms: float = 60.0


def read(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Iterator[tuple[EngineMetrics, MetricsServer, dict[str, bool]]]:
    figures, health = EngineMetrics(), {"ok": True}
    extra = {"pages": 8, "pages_free": 3, "server": {"num_sessions": 2, "refused": {"no_key": 4}}}
    server = MetricsServer(0, lambda: {**figures.snapshot(), **extra}, lambda: health["ok"])
    yield figures, server, health
    server.close()


def test_figures_of_a_large_model_can_be_told_after_months() -> None:
    figures = EngineMetrics()
    for _ in range(3):
        figures.count_request("stop", SomeUsage(flops=2**62, full_flops=2**63))
    told = decode_reply(encode({"v": 1, **figures.snapshot()}))
    assert (told["flops"], told["full_flops"]) == (3.0 * 2**62, 3.0 * 2**63)


def test_the_fields_names(metrics: tuple[EngineMetrics, MetricsServer, dict[str, bool]]) -> None:
    figures, server, _ = metrics
    figures.count_request("stop", SomeUsage())
    figures.count_request("length", SomeUsage(generated_tokens=1))
    figures.count_request("cancelled", SomeUsage(generated_tokens=0))
    status, text = read(server.port, "/metrics")
    assert status == 200
    found = samples(text)
    ttft = "game_agent_time_to_first_token_seconds"
    assert found[f"{ttft}_count", ()] == 2
    assert found[f"{ttft}_sum", ()] == pytest.approx(0.04)
    assert found[f"{ttft}_bucket", ("0.01",)] == 0
    assert found[f"{ttft}_bucket", ("0.02",)] == 2
    assert found["game_agent_inter_token_latency_seconds_count", ()] == 4
    assert found["game_agent_inter_token_latency_seconds_sum", ()] == pytest.approx(0.04)
    assert found["game_agent_request_queue_time_seconds_count", ()] == 2
    assert found["game_agent_e2e_request_latency_seconds_bucket", ("+Inf",)] == 2
    assert found["game_agent_prompt_tokens_total", ("cached",)] == 30
    assert found["game_agent_generation_tokens_total", ()] == 6
    assert found["game_agent_requests_total", ("cancelled",)] == 1
    assert found["game_agent_blocks_encoded_total", ()] == 3
    assert found["game_agent_block_cache_queries_total", ()] == 12
    assert found["game_agent_block_cache_hits_total", ()] == 9
    assert found["game_agent_kv_pages_free", ()] == 3
    assert found["game_agent_sessions", ()] == 2
    assert found["game_agent_refused_total", ("no_key",)] == 4


def test_health(metrics: tuple[EngineMetrics, MetricsServer, dict[str, bool]]) -> None:
    _, server, health = metrics
    assert read(server.port, "/healthz") == (200, "ok\n")
    health["ok"] = False
    assert read(server.port, "/healthz")[0] == 503
    assert read(server.port, "/")[0] == 404


def test_a_running_server_serves_both() -> None:
    with running(FakeRuntime(is_instant=True), metrics_port=0) as server:
        assert server.metrics is not None
        port = server.metrics.port
        with Client(server.endpoint) as client:
            client.ping()
            assert client.stats()["server"]["refused"] == {"foreign_session": 0, "foreign_name": 0}
            found = samples(read(port, "/metrics")[1])
        assert found["game_agent_messages_total", ()] == 2
        assert found["game_agent_sessions", ()] == 1
        assert read(port, "/healthz") == (200, "ok\n")
        with pytest.raises(Unavailable, match="metrics"):
            MetricsServer(port, dict, lambda: True)


def test_ports_are_checked() -> None:
    with pytest.raises(InvalidInput) as caught:
        ServerSettings(metrics_port=70_000)
    assert caught.value.where == "metrics_port"


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5))))
def test_a_histogram_counts_everything_once(values: list[tuple[float, int]]) -> None:
    histogram = Histogram()
    for seconds, times in values:
        histogram.observe(seconds, times)
    assert sum(histogram.counts) == sum(times for _, times in values)
    assert histogram.sum_s == pytest.approx(sum(seconds * times for seconds, times in values))
    for index, bound in enumerate(BOUNDS_S):
        below = sum(times for seconds, times in values if seconds <= bound)
        assert sum(histogram.counts[: index + 1]) == below


def test_logs_as_json() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        root.handlers.clear()
        set_up_logs(logging.INFO, is_json=True, stream=stream)
        logging.getLogger("some").info("player %s said\nnothing", "x")
        try:
            raise ValueError("bad")
        except ValueError:
            logging.getLogger("some").exception("it failed")
        root.handlers.clear()
        set_up_logs(logging.INFO, is_json=False, stream=stream)
        logging.getLogger("some").info("plain")
    finally:
        root.handlers[:], root.level = before
    first, second, third = stream.getvalue().splitlines()
    fields = json.loads(first)
    assert fields["message"] == "player x said\nnothing"
    assert (fields["level"], fields["logger"]) == ("info", "some")
    assert fields["time"].endswith("+00:00")
    assert "ValueError: bad" in json.loads(second)["error"]
    assert third.endswith("INFO some: plain")
    assert isinstance(JsonFormatter(), logging.Formatter)

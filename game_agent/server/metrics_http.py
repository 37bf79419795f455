"""Figures for Prometheus and a health check, over HTTP on this computer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from game_agent.errors import Unavailable

HOST = "127.0.0.1"
PREFIX = "game_agent_"

Stats = Callable[[], Mapping[str, Any]]

# Prometheus' name -> (a figure of ``stats``, help)
_COUNTERS = {
    "generation_tokens": ("generated_tokens", "Tokens generated."),
    "block_cache_queries": ("blocks_asked", "Blocks that prompts asked for."),
    "blocks_encoded": ("blocks_encoded", "Blocks that had to be encoded."),
    "blocks_evicted": ("blocks_evicted", "Blocks evicted to make room."),
    "prompt_flops": ("flops", "Operations done up to first tokens."),
    "full_prompt_flops": ("full_flops", "Operations that full prefills would have taken."),
    "blocks_kept": ("blocks_kept", "Blocks written to a tier below."),
    "blocks_fetched": ("blocks_fetched", "Blocks read back from a tier below."),
    "engine_steps": ("steps", "Forward passes."),
    "engine_step_tokens": ("step_tokens", "Tokens computed in forward passes."),
}
_GAUGES = {
    "kv_pages": ("pages", "Pages for keys and values."),
    "kv_pages_free": ("pages_free", "Pages that are free."),
    "blocks": ("blocks", "Blocks in the store."),
    "worlds": ("worlds", "Worlds."),
    "agents": ("agents", "Agents."),
}
_SERVER_GAUGES = {
    "sessions": ("num_sessions", "Sessions of clients."),
    "requests_pending": ("num_pending", "Requests without a terminal reply."),
    "replies_queued": ("num_queued", "Replies that wait for their reader."),
}
_HELP = {
    "time_to_first_token_seconds": "From submission to the first token.",
    "inter_token_latency_seconds": "Between two tokens of a reply.",
    "request_queue_time_seconds": "From submission until a request was taken up.",
    "e2e_request_latency_seconds": "From submission to the end.",
}


class StatsCollector(Collector):
    """Reads what ``stats`` tells at the moment it is asked."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        server = stats.get("server", {})
        for name, (source, text) in _COUNTERS.items():
            yield CounterMetricFamily(PREFIX + name, text, value=stats.get(source, 0))
        for figures, gauges in ((stats, _GAUGES), (server, _SERVER_GAUGES)):
            for name, (source, text) in gauges.items():
                yield GaugeMetricFamily(PREFIX + name, text, value=figures.get(source, 0))
        hits = stats.get("blocks_asked", 0) - stats.get("blocks_encoded", 0)
        yield CounterMetricFamily(f"{PREFIX}block_cache_hits", "Blocks found encoded.", value=hits)
        requests = server.get("num_requests", 0)
        yield CounterMetricFamily(f"{PREFIX}messages", "Requests received.", value=requests)
        yield _labelled("requests", "Ended asks.", "finish_reason", _prefixed(stats, "requests_"))
        sources = {
            name: stats.get(f"{name}_tokens", 0) for name in ("cached", "encoded", "prefill")
        }
        yield _labelled("prompt_tokens", "Tokens of prompts.", "source", sources)
        yield _labelled(
            "refused", "Connections and sessions refused.", "reason", server.get("refused", {})
        )
        for name, values in stats.get("histograms", {}).items():
            yield _histogram(name, values)


class MetricsServer:
    """``/metrics`` and ``/healthz`` in a thread of its own, until ``close``.

    ``is_healthy`` False: ``/healthz`` answers 503. Raises ``Unavailable`` if the port is taken.
    """

    def __init__(self, port: int, stats: Stats, is_healthy: Callable[[], bool]) -> None:
        handler = _handler(StatsCollector(stats), is_healthy)
        try:
            self._http = ThreadingHTTPServer((HOST, port), handler)
        except OSError as error:
            raise Unavailable(f"cannot serve metrics at {HOST}:{port}: {error}") from error
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _prefixed(stats: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value for name, value in stats.items() if name.startswith(prefix)
    }


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, values: Mapping[str, Any]) -> Metric:
    cumulative, buckets = 0, []
    for bound, count in zip([*values["bounds_s"], "+Inf"], values["counts"], strict=True):
        cumulative += count
        buckets.append((str(bound), cumulative))
    family = HistogramMetricFamily(PREFIX + name, _HELP[name])
    family.add_metric([], buckets=buckets, sum_value=values["sum_s"])
    return family


def _handler(collector: Collector, is_healthy: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    """What answers one request."""
    registry = CollectorRegistry()
    registry.register(collector)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif self.path == "/healthz" and is_healthy():
                self._answer(HTTPStatus.OK, b"ok\n")
            elif self.path == "/healthz":
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not serving\n")
            else:
                self._answer(HTTPStatus.NOT_FOUND, b"there is /metrics and /healthz\n")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A scrape every few seconds is nothing to tell."""

    return Handler

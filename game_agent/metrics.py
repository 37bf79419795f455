"""What the engine counts, for ``stats`` and for people."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from typing import Protocol

import numpy as np


class RequestUsage(Protocol):
    """The figures of one finished request that are counted."""

    @property
    def cached_tokens(self) -> int: ...
    @property
    def encoded_tokens(self) -> int: ...
    @property
    def prefill_tokens(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def blocks_encoded(self) -> int: ...
    @property
    def flops(self) -> int: ...
    @property
    def full_flops(self) -> int: ...
    @property
    def queue_ms(self) -> float: ...
    @property
    def ttft_ms(self) -> float: ...
    @property
    def total_ms(self) -> float: ...


_FLOPS = ("flops", "full_flops")
_SUMMED = ("cached_tokens", "encoded_tokens", "prefill_tokens", "generated_tokens", *_FLOPS)
_BLOCKS = {"blocks_asked": "blocks", "blocks_encoded": "blocks_encoded"}
# Quantiles are of the latest requests, so that they show the present.
_WINDOW = 1024
BOUNDS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""Upper bounds of the histograms' buckets: fine around the frames of a game."""


class Histogram:
    """Counts of durations by bucket; the last bucket has no upper bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times

    def as_map(self) -> dict[str, object]:
        """``bounds_s`` (upper, inclusive), ``counts`` (one more), ``sum_s``."""
        return {"bounds_s": list(BOUNDS_S), "counts": list(self.counts), "sum_s": self.sum_s}


class EngineMetrics:
    """Counters since the start, and quantiles of recent latencies. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._ttft_ms: deque[float] = deque(maxlen=_WINDOW)
        self._histograms = {
            name: Histogram()
            for name in (
                "time_to_first_token_seconds",
                "inter_token_latency_seconds",
                "request_queue_time_seconds",
                "e2e_request_latency_seconds",
            )
        }

    def count_step(self, num_tokens: int) -> None:
        with self._lock:
            self._counts["steps"] += 1
            self._counts["step_tokens"] += num_tokens

    def count_request(self, finish_reason: str, usage: RequestUsage) -> None:
        with self._lock:
            self._counts[f"requests_{finish_reason}"] += 1
            for name in _SUMMED:
                self._counts[name] += getattr(usage, name)
            for name, source in _BLOCKS.items():
                self._counts[name] += getattr(usage, source)
            if usage.generated_tokens:
                self._ttft_ms.append(usage.ttft_ms)
                self._observe(usage)

    def snapshot(self) -> dict[str, object]:
        """Counters; ``ttft_ms`` {p50, p99, max} of recent requests that generated; ``histograms``.

        ``inter_token_latency_seconds`` takes each request's mean for all of its tokens.
        """
        with self._lock:
            out: dict[str, object] = dict(self._counts)
            # A large model passes 2^64, the end of MessagePack's whole numbers, within hours.
            out.update({name: float(self._counts[name]) for name in _FLOPS if name in out})
            out["histograms"] = {name: each.as_map() for name, each in self._histograms.items()}
            recent = np.array(self._ttft_ms)
        if len(recent):
            p50, p99, top = np.quantile(recent, [0.5, 0.99, 1.0]).tolist()
            out["ttft_ms"] = {"p50": p50, "p99": p99, "max": top}
        return out

    def _observe(self, usage: RequestUsage) -> None:
        histograms = self._histograms
        histograms["time_to_first_token_seconds"].observe(usage.ttft_ms / 1e3)
        histograms["request_queue_time_seconds"].observe(usage.queue_ms / 1e3)
        histograms["e2e_request_latency_seconds"].observe(usage.total_ms / 1e3)
        num_gaps = usage.generated_tokens - 1
        if num_gaps:
            mean_s = (usage.total_ms - usage.ttft_ms) / 1e3 / num_gaps
            histograms["inter_token_latency_seconds"].observe(mean_s, num_gaps)

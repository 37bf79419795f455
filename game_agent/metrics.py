"""What the engine counts, for ``stats`` and for people."""

from __future__ import annotations

import threading
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
    def ttft_ms(self) -> float: ...


_SUMMED = ("cached_tokens", "encoded_tokens", "prefill_tokens", "generated_tokens")
# Quantiles are of the latest requests, so that they show the present.
_WINDOW = 1024


class EngineMetrics:
    """Counters since the start, and quantiles of recent latencies. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._ttft_ms: deque[float] = deque(maxlen=_WINDOW)

    def count_step(self, num_tokens: int) -> None:
        with self._lock:
            self._counts["steps"] += 1
            self._counts["step_tokens"] += num_tokens

    def count_request(self, finish_reason: str, usage: RequestUsage) -> None:
        with self._lock:
            self._counts[f"requests_{finish_reason}"] += 1
            for name in _SUMMED:
                self._counts[name] += getattr(usage, name)
            if usage.generated_tokens:
                self._ttft_ms.append(usage.ttft_ms)

    def snapshot(self) -> dict[str, object]:
        """Counters, and ``ttft_ms`` {p50, p99, max} of recent requests that generated."""
        with self._lock:
            out: dict[str, object] = dict(self._counts)
            recent = np.array(self._ttft_ms)
        if len(recent):
            p50, p99, top = np.quantile(recent, [0.5, 0.99, 1.0]).tolist()
            out["ttft_ms"] = {"p50": p50, "p99": p99, "max": top}
        return out

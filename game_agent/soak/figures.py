"""What a soak measures: latencies in histograms, counts, and the server's process over time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from game_agent.errors import Unavailable

try:
    import psutil
    from hdrh.histogram import HdrHistogram
except ImportError:
    HdrHistogram = psutil = None

HIGHEST_US = 3_600_000_000
SIGNIFICANT_DIGITS = 3
QUANTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p99_9_ms": 99.9}


def check_installed() -> None:
    """Raise ``Unavailable`` if the packages that measure are missing."""
    if psutil is None:
        raise Unavailable("soak needs hdrhistogram and psutil: pip install game-agent[bench]")


@dataclass
class Counts:
    """``dropped`` and ``doubled`` must be 0.

    dropped:         requests without a terminal reply
    doubled:         second terminal replies to requests that were sent once, or that differ
    repeated:        second replies to requests that were sent again after a reconnect
    broken_texts:    streams whose pieces joined are not the text of the end
    deadline_misses: asks that ended at their deadline, or were told later than that
    """

    sent: int = 0
    answered: int = 0
    dropped: int = 0
    doubled: int = 0
    repeated: int = 0
    broken_texts: int = 0
    deadline_misses: int = 0
    reconnects: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        """Whether every request was answered once, and by no error."""
        return not (self.dropped or self.doubled or self.broken_texts or self.errors)


@dataclass(frozen=True)
class Sample:
    """The server's process at one moment; ``cpu_share`` 1.0 is one core."""

    at_s: float
    rss_bytes: int
    num_fds: int
    cpu_share: float


class Latencies:
    """HdrHistograms by what was measured (``ttft``, ``total``, ``tick``) and phase."""

    def __init__(self) -> None:
        self._histograms: dict[tuple[str, str], Any] = {}

    def record(self, what: str, phase: str, seconds: float) -> None:
        histogram = self._histograms.get((what, phase))
        if histogram is None:
            histogram = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
            self._histograms[what, phase] = histogram
        histogram.record_value(min(max(1, round(seconds * 1e6)), HIGHEST_US))

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """``{what: {phase: {count, p50_ms, p99_ms, p99_9_ms, max_ms}}}``; ``all``: every phase."""
        out: dict[str, dict[str, dict[str, float]]] = {}
        totals: dict[str, Any] = {}
        for (what, phase), histogram in self._histograms.items():
            out.setdefault(what, {})[phase] = _summary(histogram)
            if what not in totals:
                totals[what] = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
            totals[what].add(histogram)
        for what, total in totals.items():
            out[what] = {"all": _summary(total), **out[what]}
        return out


def _summary(histogram: Any) -> dict[str, float]:
    quantiles = {
        name: histogram.get_value_at_percentile(percent) / 1e3
        for name, percent in QUANTILES.items()
    }
    return {
        "count": histogram.get_total_count(),
        **quantiles,
        "max_ms": histogram.get_max_value() / 1e3,
    }


class ProcessSampler:
    """Looks at a process now and then."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._process.cpu_percent()
        self.samples: list[Sample] = []

    def sample(self, at_s: float) -> None:
        process = self._process
        # Windows counts handles instead.
        num_fds = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        self.samples.append(
            Sample(at_s, process.memory_info().rss, num_fds, process.cpu_percent() / 100)
        )


def as_map(counts: Counts) -> dict[str, Any]:
    """The counts as plain values."""
    return {
        name: dict(value) if isinstance(value, Counter) else value
        for name, value in vars(counts).items()
    }

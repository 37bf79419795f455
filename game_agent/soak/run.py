"""A whole soak: start a server unless there is one, load it, write the report."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from game_agent.errors import Unavailable
from game_agent.soak.figures import ProcessSampler, as_map, check_installed
from game_agent.soak.load import Load
from game_agent.soak.report import write_report
from game_agent.soak.schedule import SoakSettings

STOP_S = 30.0

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Target:
    """A server to be loaded; ``pid`` None: a process that cannot be looked at."""

    endpoint: str
    pid: int | None = None


def soak(
    settings: SoakSettings,
    out: Path,
    *,
    target: Target | None = None,
    serve_args: Sequence[str] = (),
    progress: Progress = lambda at_s: None,
) -> dict[str, Any]:
    """Run the load; write ``soak.json`` and ``soak.html`` into ``out``; return the JSON's value.

    Without ``target`` a server process is started with ``serve_args`` and stopped at the end.
    Raises ``Unavailable`` (packages missing, the server ended) and what ``Load`` raises.
    """
    check_installed()
    out.mkdir(parents=True, exist_ok=True)
    running = contextlib.nullcontext(target) if target else serving(serve_args, out / "server.log")
    with running as found:
        result = _run(settings, found, progress)
    write_report(result, out)
    return result


def _run(settings: SoakSettings, target: Target, progress: Progress) -> dict[str, Any]:
    load = Load(target.endpoint, settings)
    sampler = ProcessSampler(target.pid) if target.pid is not None else None

    def on_time(at_s: float) -> None:
        if sampler is not None:
            sampler.sample(at_s)
        progress(at_s)

    with contextlib.closing(load):
        load.set_up()
        load.run(on_time)
    contexts = load.num_context_tokens
    latencies = load.latencies.summary()
    return {
        "settings": vars(settings),
        "machine": {"system": platform.system(), "num_cpus": os.cpu_count()},
        "model": load.model,
        "context_tokens_mean": round(sum(contexts) / len(contexts)) if contexts else None,
        "is_clean": load.counts.is_clean,
        "counts": as_map(load.counts),
        "latencies": latencies,
        "ttft_p99_encodes_over_steady": _ratio(latencies.get("ttft", {})),
        "generator_cpu_share": round(load.cpu_share, 3),
        "samples": [vars(sample) for sample in sampler.samples] if sampler else [],
    }


def _ratio(phases: dict[str, dict[str, float]]) -> float | None:
    """p99 of time to first token while blocks are encoded in the background, over that without."""
    if "encodes" not in phases or "steady" not in phases:
        return None
    return round(phases["encodes"]["p99_ms"] / phases["steady"]["p99_ms"], 2)


@contextlib.contextmanager
def serving(args: Sequence[str], log: Path) -> Iterator[Target]:
    """A server process, stopped at the end. Raises ``Unavailable`` if it ended by itself."""
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "game_agent.cli", "serve", "--bind", endpoint, *args]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        yield Target(endpoint, process.pid)
        if process.poll() is not None:
            raise Unavailable(f"the server ended with status {process.returncode}; see {log}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port

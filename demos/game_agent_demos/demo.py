"""Runs the demo: a server in one process, a TextWorld game that talks to it in another."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from game_agent.errors import InvalidInput, Unavailable
from game_agent_demos import INTERRUPTED

TERMINATED = 143  # exit status after SIGTERM, as shells have it
GRACE_S = 5.0
POLL_S = 0.2
LOG_LINES = 10


def run(
    *,
    ticks: int | None = None,
    seed: int = 1,
    model: str | None = None,
    tick_s: float = 0.5,
    server_ready_timeout_s: float = 120.0,
) -> int:
    """Play a game of ``ticks`` actions (None: to its end); return the exit status.

    ``model`` is a checkpoint folder or Hub id, None the bundled model; ``tick_s`` the seconds from
    one action to the next. Both processes have ended when this returns or raises. Raises
    InvalidInput for a value out of range, Unavailable if TextWorld is missing or the server ends
    early (with the last lines that it wrote).
    """
    if ticks is not None and ticks < 1:
        raise InvalidInput(f"--ticks must be at least 1, not {ticks}")
    if not 0 <= seed < 2**32:
        raise InvalidInput(f"--seed must be a number from 0 to 2^32 - 1, not {seed}")
    if importlib.util.find_spec("textworld") is None:
        raise Unavailable("the demo needs TextWorld: pip install 'game-agent[demo]'")
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    serve = ["game_agent.cli", "serve", "--bind", endpoint]
    player = ["game_agent_demos.player", "--endpoint", endpoint, "--seed", str(seed)]
    player += ["--tick-s", str(tick_s), "--timeout-s", str(server_ready_timeout_s)]
    print("Starting a server and building a TextWorld game ...", flush=True)
    with _ended_by_sigterm(), tempfile.TemporaryDirectory() as folder:
        return _run_both(
            [*serve, *(["--model", model] if model else [])],
            [*player, *(["--ticks", str(ticks)] if ticks else [])],
            Path(folder) / "server.log",
        )


def _run_both(serve: Sequence[str], player: Sequence[str], log: Path) -> int:
    # The server's log would spoil the table; it is shown only if something went wrong.
    with log.open("wb") as file, _process(serve, file.fileno()) as server, _process(player) as game:
        try:
            while game.poll() is None:
                if server.poll() is not None:
                    raise Unavailable(
                        f"the server ended with exit status {server.returncode}:\n{_tail(log)}"
                    )
                _wait(game, POLL_S)
        except KeyboardInterrupt:
            # Ctrl-C reaches the game as well, which then sums up what was played.
            _wait(game, GRACE_S)
            return INTERRUPTED
        return game.returncode


@contextmanager
def _process(module: Sequence[str], output: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module as a process, ended in every case."""
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.terminate()
        if not _wait(process, GRACE_S):
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether ``process`` has ended within ``timeout_s`` seconds."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that no process is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _exit(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:])

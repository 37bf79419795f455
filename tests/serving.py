"""A real server on a free port, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fakes import FakeRuntime

from game_agent.clock import Clock
from game_agent.protocol.limits import Limits
from game_agent.server import Server, ServerSettings
from game_agent.server import running as run_server

ANY_PORT = "tcp://127.0.0.1:*"
PATIENCE_S = 20.0


def free_endpoint() -> str:
    """An address that nobody listened at a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(
    runtime: FakeRuntime,
    *,
    limits: Limits | None = None,
    drain_s: float = 0.0,
    clock: Clock | None = None,
    **settings: Any,
) -> Iterator[Server]:
    """Serve ``runtime`` until the block ends. It has the world ``w`` and the agent ``ann``."""
    runtime.world("w", {"a": 1})
    runtime.agent("ann", world="w", profile="")
    chosen = {"bind": ANY_PORT, "limits": limits or Limits(), "drain_s": drain_s, **settings}
    with run_server(runtime, ServerSettings(**chosen), clock=clock) as server:
        yield server


def forget_sessions(server: Server) -> None:
    """Close all sessions, as after a long silence; their clients are told nothing."""
    is_done = threading.Event()

    def forget() -> None:
        for session in server._sessions:
            server._sessions.close(session)
        is_done.set()

    server._inbox.post(forget)
    assert is_done.wait(PATIENCE_S)

"""A server with the bundled model, for the conformance tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serving import ANY_PORT, PATIENCE_S

from game_agent import Runtime
from game_agent.server import Server, ServerSettings


@contextmanager
def conformance_server() -> Iterator[str]:
    """Its endpoint, while the block runs."""
    runtime = Runtime.load()
    try:
        with Server(runtime, ServerSettings(bind=ANY_PORT, drain_s=0.0)) as server:
            thread = threading.Thread(target=server.run)
            thread.start()
            try:
                yield server.endpoint
            finally:
                server.stop()
                thread.join(PATIENCE_S)
    finally:
        runtime.close()

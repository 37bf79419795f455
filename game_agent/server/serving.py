"""A whole server's life: until a signal, or in a thread while a block of code runs."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from game_agent.clock import Clock
from game_agent.server.backend import Backend
from game_agent.server.settings import ServerSettings
from game_agent.server.transport import Server

logger = logging.getLogger(__name__)

FREE_PORT = ServerSettings(bind="tcp://127.0.0.1:*", drain_s=0.0)


def serve(runtime: Backend, settings: ServerSettings | None = None) -> None:
    """Serve until SIGINT or SIGTERM. Call it from the main thread, which handles signals.

    Raises as ``Server`` does.
    """
    with Server(runtime, settings) as server:

        def on_signal(number: int, frame: FrameType | None) -> None:
            server.stop()

        before = {
            number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        # What is loaded by now stays. Looking through it again for garbage takes tens of
        # milliseconds, in which nobody is answered.
        gc.collect()
        gc.freeze()
        try:
            logger.info("listening at %s", server.endpoint)
            server.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            gc.unfreeze()


@contextmanager
def running(
    runtime: Backend, settings: ServerSettings = FREE_PORT, *, clock: Clock | None = None
) -> Iterator[Server]:
    """A server in a thread of this process, while the block runs: for tests of a game.

    Without ``settings`` it listens at a free port of this computer, told by ``server.endpoint``,
    and cancels what is under way when the block ends. The runtime is left open. Raises as
    ``Server`` does, and at the end of the block what ended the server before it.
    """
    with (
        Server(runtime, settings, clock=clock) as server,
        ThreadPoolExecutor(1, thread_name_prefix="server") as thread,
    ):
        served = thread.submit(server.run)
        try:
            yield server
        finally:
            server.stop()
            served.result()

"""What both clients want of a ZeroMQ socket."""

from __future__ import annotations

from typing import Any

import zmq

from game_agent.errors import RequestTimeout


def configure(socket: zmq.Socket[Any], timeout_s: float) -> None:
    """Options of a DEALER; set before it connects."""
    socket.setsockopt(zmq.LINGER, 0)
    # Without a server, sending waits and then fails, instead of filling a queue for nobody.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.SNDTIMEO, max(1, round(timeout_s * 1000)))
    socket.setsockopt(zmq.IPV6, 1)


def timeout_error(endpoint: str, timeout_s: float) -> RequestTimeout:
    return RequestTimeout(
        f"no reply from {endpoint} within {timeout_s:g} s; is the server running there?"
    )

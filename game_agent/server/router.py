"""The server's ROUTER socket: its options and its address."""

from __future__ import annotations

import os

import zmq

from game_agent.server.settings import ServerSettings

QUEUED_MESSAGES_PER_PEER = 64
"""ZeroMQ's own queues stay short: what waits in a session can still be joined, dropped or freed."""


def open_router(
    context: zmq.Context[zmq.Socket[bytes]], settings: ServerSettings
) -> zmq.Socket[bytes]:
    """A ROUTER that is not bound yet."""
    router = context.socket(zmq.ROUTER)
    # Without ROUTER_MANDATORY, replies to peers that are gone or slow would vanish unnoticed.
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.MAXMSGSIZE, settings.limits.max_frame_bytes)
    router.setsockopt(zmq.SNDHWM, QUEUED_MESSAGES_PER_PEER)
    router.setsockopt(zmq.RCVHWM, QUEUED_MESSAGES_PER_PEER)
    router.setsockopt(zmq.IPV6, int("[" in settings.bind))
    return router


def bind_router(router: zmq.Socket[bytes], bind: str) -> str:
    """Bind; return the address with its port number. An ipc file is its owner's alone."""
    if bind.startswith("ipc://"):
        umask = os.umask(0o177)
        try:
            router.bind(bind)
        finally:
            os.umask(umask)
    else:
        router.bind(bind)
    return router.getsockopt_string(zmq.LAST_ENDPOINT)

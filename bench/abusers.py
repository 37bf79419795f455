"""Clients that behave badly, each for a process of its own. Imports little, to start fast."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import msgpack
import zmq

Abuse = Callable[[str, Event], None]
"""An endpoint, and when to stop."""
LARGE_WORLD = "large"
STOP_S = 20.0


@contextmanager
def abused(endpoint: str, abuse: Abuse) -> Iterator[None]:
    """``abuse`` goes on in another process until the block ends."""
    context = multiprocessing.get_context("spawn")
    is_over = context.Event()
    process = context.Process(target=abuse, args=(endpoint, is_over), daemon=True)
    process.start()
    try:
        yield
    finally:
        is_over.set()
        process.join(STOP_S)
        process.kill()
        process.join()
        process.close()


def never_read(endpoint: str, is_over: Event) -> None:
    """Ask for ``LARGE_WORLD`` again and again, and read nothing."""
    context = zmq.Context()
    context.setsockopt(zmq.RCVHWM, 1)
    socket = _connect(context, endpoint)
    number = 0
    while not is_over.wait(0.001):
        _send(socket, id=number, op="world.get", world=LARGE_WORLD)
        number += 1
    context.destroy(linger=0)


def send_bytes(num_bytes: int, frame_bytes: int, endpoint: str, is_over: Event) -> None:
    """Send so much in large frames, as fast as the server takes them."""
    context = zmq.Context()
    # Otherwise it first fills 1 GB of its own memory, and measures that.
    context.setsockopt(zmq.SNDHWM, 4)
    socket = _connect(context, endpoint)
    left = num_bytes
    while left > 0 and not is_over.is_set():
        if _send(socket, id=left, op="ping", junk=b"x" * frame_bytes):
            left -= frame_bytes
        while socket.poll(0):
            socket.recv()
    is_over.wait()
    context.destroy(linger=0)


def open_connections(num_connections: int, endpoint: str, is_over: Event) -> None:
    """Open so many connections; each says one thing and stays."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, num_connections + 10)
    sockets = [_connect(context, endpoint) for _ in range(num_connections)]
    for number, socket in enumerate(sockets):
        _send(socket, id=number, op="ping")
    is_over.wait()
    context.destroy(linger=0)


def _connect(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDTIMEO, 100)
    socket.connect(endpoint)
    return socket


def _send(socket: zmq.Socket[bytes], **fields: object) -> bool:
    try:
        socket.send(msgpack.packb({"v": 1, **fields}))
    except zmq.Again:
        return False
    return True

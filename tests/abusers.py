"""Clients that behave badly, in processes of their own. Imports little, so that they start fast."""

from __future__ import annotations

from multiprocessing.synchronize import Event

import msgpack
import zmq


def connect(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDTIMEO, 100)
    socket.connect(endpoint)
    return socket


def send(socket: zmq.Socket[bytes], **fields: object) -> bool:
    try:
        socket.send(msgpack.packb({"v": 1, **fields}))
    except zmq.Again:
        return False
    return True


def never_read(endpoint: str, is_over: Event) -> None:
    """Ask for a large world again and again, and read nothing."""
    context = zmq.Context()
    context.setsockopt(zmq.RCVHWM, 1)
    socket = connect(context, endpoint)
    number = 0
    while not is_over.wait(0.001):
        send(socket, id=number, op="world.get", world="large")
        number += 1
    context.destroy(linger=0)


def send_bytes(num_bytes: int, frame_bytes: int, endpoint: str, is_over: Event) -> None:
    """Send so much in large frames, as fast as it goes."""
    context = zmq.Context()
    socket = connect(context, endpoint)
    left = num_bytes
    while left > 0 and not is_over.is_set():
        if send(socket, id=left, op="ping", junk=b"x" * frame_bytes):
            left -= frame_bytes
        while socket.poll(0):
            socket.recv()
    is_over.wait()
    context.destroy(linger=0)


def open_connections(num_connections: int, endpoint: str, is_over: Event) -> None:
    """Open so many connections; each says one thing and stays."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, num_connections + 10)
    sockets = [connect(context, endpoint) for _ in range(num_connections)]
    for number, socket in enumerate(sockets):
        send(socket, id=number, op="ping")
    is_over.wait()
    context.destroy(linger=0)

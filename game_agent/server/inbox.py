"""Calls that other threads want made in the server's thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import zmq


class Inbox:
    """Calls in order, and a pipe inside the process: its end ``socket`` wakes whoever polls it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket = context.socket(zmq.PAIR)
        self.socket.bind("inproc://wake")
        self._waker = context.socket(zmq.PAIR)
        self._waker.connect("inproc://wake")
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # Reentrant: a signal handler may call wake() while its own thread is inside it.
        self._lock = threading.RLock()
        self._is_waking = False

    def post(self, call: Callable[[], None]) -> None:
        """Have ``call`` made soon. From any thread."""
        self._calls.put(call)
        self.wake()

    def wake(self) -> None:
        """Have the poll end. From any thread or a signal handler."""
        with self._lock:
            # One wake-up on its way is enough, whatever it will find.
            if not self._is_waking and not self._waker.closed:
                self._is_waking = True
                self._waker.send(b"")

    def woken(self) -> None:
        """``socket`` is ready."""
        self.socket.recv()
        with self._lock:
            self._is_waking = False

    def run(self) -> None:
        """Make the calls that are there now."""
        for _ in range(self._calls.qsize()):
            self._calls.get_nowait()()

    def close(self) -> None:
        with self._lock:
            self._waker.close(linger=0)
        self.socket.close(linger=0)

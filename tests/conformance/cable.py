"""A relay in front of a server, whose connections can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading


class Cable:
    """Listens at ``endpoint`` and relays to a server. A context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """End all connections; new ones may come."""
        with self._lock:
            for end in self._ends:
                # The other side may have ended it already.
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._relay, args=(near,)))
            self._threads[-1].start()

    def _relay(self, near: socket.socket) -> None:
        with near:
            try:
                far = socket.create_connection(self._server)
            except OSError:
                return
            with far:
                with self._lock:
                    self._ends += [near, far]
                back = threading.Thread(target=_carry, args=(far, near))
                back.start()
                _carry(near, far)
                back.join()
                with self._lock:
                    self._ends.remove(near)
                    self._ends.remove(far)


def _carry(source: socket.socket, target: socket.socket) -> None:
    # An end that is cut while it is read or written ends both.
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

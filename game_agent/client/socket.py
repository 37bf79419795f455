"""What both clients want of a ZeroMQ socket."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
import zmq.auth

from game_agent.errors import InvalidInput, RequestTimeout


@dataclass(frozen=True)
class CurveKeys:
    """What a client needs to connect to a server that asks for keys. All are Z85 text.

    server: the server's public key
    public, secret: the client's own
    """

    server: bytes
    public: bytes
    secret: bytes = field(repr=False)

    @staticmethod
    def load(server: str | os.PathLike[str], own: str | os.PathLike[str]) -> CurveKeys:
        """From the files ``server.key`` and ``NAME.key_secret`` that ``game-agent keygen`` made.

        Raises ``InvalidInput`` for a file that is missing or holds no such key.
        """
        public, secret = _read_keys(own)
        if secret is None:
            raise InvalidInput(f"{own} holds no secret key; use the file NAME.key_secret")
        return CurveKeys(_read_keys(server)[0], public, secret)


def configure(socket: zmq.Socket[Any], keys: CurveKeys | None = None) -> None:
    """Options of a DEALER; set before it connects."""
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.LINGER, 0)
    # Without a server, sending waits and then fails, instead of filling a queue for nobody.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.IPV6, 1)


def timeout_error(endpoint: str, timeout_s: float) -> RequestTimeout:
    return RequestTimeout(
        f"no reply from {endpoint} within {timeout_s:g} s; is the server running there?"
    )


def _read_keys(file: str | os.PathLike[str]) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(Path(file))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{os.fspath(file)} is no key file: {error}") from None

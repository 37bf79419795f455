"""Who may connect: CURVE keys, and the list of those that are allowed.

A key folder, as ``game-agent keygen`` makes it (files are those of ``zmq.auth``):

    server.key          the server's public key: give it to every client
    server.key_secret   its secret key: stays here
    clients/NAME.key    public keys of the clients that may connect; delete one to shut it out, a
                        running server too
    issued/NAME.key_secret   the secret key of a client: carry it there, then delete it here
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
import zmq.utils.monitor
import zmq.utils.z85

from game_agent.errors import InvalidInput
from game_agent.server.rights import why_unreadable

logger = logging.getLogger(__name__)

SERVER = "server"
CLIENTS, ISSUED = "clients", "issued"
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"game-agent"
ZAP_VERSION = b"1.0"
CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

REVOKED = "revoked_key"
REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "foreign_key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "no_key",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "broken_handshake",
}


@dataclass(frozen=True)
class KeyRing:
    """The server's keys and the clients' public ones (Z85) with their names."""

    public: bytes
    secret: bytes = field(repr=False)
    clients: dict[bytes, str]
    folder: Path

    @staticmethod
    def load(folder: Path) -> KeyRing:
        """Raises ``InvalidInput`` naming the file that is missing, wrong or not to be read."""
        public, secret = _read(folder / f"{SERVER}.key_secret")
        if problem := why_unreadable(folder / CLIENTS):
            raise InvalidInput(problem)
        if secret is None:
            raise InvalidInput(f"{folder / SERVER}.key_secret holds no secret key")
        files = sorted((folder / CLIENTS).glob("*.key"))
        return KeyRing(public, secret, {_read(file)[0]: file.stem for file in files}, folder)


def make_server_keys(folder: Path) -> None:
    """Write a new pair of keys for a server. Raises ``InvalidInput`` if there is one."""
    _create(folder, SERVER)
    (folder / CLIENTS).mkdir(exist_ok=True)


def make_client_keys(folder: Path, name: str) -> Path:
    """Write a new pair of keys for a client and allow it; return the file with its secret key.

    Raises ``InvalidInput`` for a name that is taken or cannot be a file's.
    """
    if not CLIENT_NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} cannot be a client's name: use letters, digits, . _ -")
    if (folder / CLIENTS / f"{name}.key").exists():
        raise InvalidInput(f"there is a client {name} already in {folder / CLIENTS}")
    public, secret = _create(folder / ISSUED, name)
    (folder / CLIENTS).mkdir(exist_ok=True)
    public.replace(folder / CLIENTS / public.name)
    return secret


class AllowList:
    """The clients' public keys in a key folder, as they are now."""

    def __init__(self, keys: KeyRing) -> None:
        self._folder = keys.folder / CLIENTS
        self._clients = frozenset(keys.clients)
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._stamps = self._look()

    def __contains__(self, user: str) -> bool:
        return user.encode() in self._clients

    def refresh(self) -> None:
        """Read the keys again if a file has changed. One that cannot be read allows nobody."""
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        clients = set()
        for file in stamps:
            try:
                clients.add(_read(file)[0])
            except InvalidInput as error:
                logger.warning("%s", error.message)
        self._clients = frozenset(clients)
        logger.info("%d clients may connect now", len(clients))

    def _look(self) -> dict[Path, tuple[int, int]]:
        stamps = {}
        for file in sorted(self._folder.glob("*.key")):
            try:
                status = file.stat()
            except OSError:
                continue
            stamps[file] = (status.st_mtime_ns, status.st_size)
        return stamps


class Gate:
    """Answers ZeroMQ's question whether a key may connect (ZAP, RFC 27), and counts refusals.

    A client is known by its public key, whatever its file is called.

    Its sockets belong to the thread that polls the server's. ``refused`` counts connections by
    reason: ``foreign_key``, ``no_key`` (or another mechanism, or the wrong server key),
    ``broken_handshake``; and messages of connections whose key is gone: ``revoked_key``.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyRing, refused: Counter[str]
    ) -> None:
        self._keys = keys
        self.allowed = AllowList(keys)
        self._refused = refused
        self._refused.update(dict.fromkeys([*REFUSALS.values(), REVOKED], 0))
        self.questions = context.socket(zmq.REP)
        self.questions.bind(ZAP_ENDPOINT)
        self.events: zmq.Socket[Any] | None = None

    def guard(self, router: zmq.Socket[bytes]) -> None:
        """Let only allowed keys connect to ``router``, which is not bound yet."""
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        router.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        # Even without a handler nobody may come in.
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        mask = 0
        for event in REFUSALS:
            mask |= event
        self.events = router.get_monitor_socket(mask)

    def admits(self, user: str) -> bool:
        """Whether a message of ``user`` may be read; counted if not."""
        is_allowed = user in self.allowed
        self._refused[REVOKED] += not is_allowed
        return is_allowed

    @property
    def sockets(self) -> list[zmq.Socket[Any]]:
        """What to poll."""
        return [self.questions] if self.events is None else [self.questions, self.events]

    def attend(self, ready: dict[Any, int]) -> None:
        """Do what the sockets that are ``ready`` want."""
        if self.questions in ready:
            self._answer()
        if self.events in ready:
            self._count()

    def _answer(self) -> None:
        version, request_id, _, _, _, mechanism, *credentials = self.questions.recv_multipart()
        status = [b"400", b"this key is not allowed", b""]
        if version == ZAP_VERSION and mechanism == b"CURVE" and len(credentials) == 1:
            self.allowed.refresh()
            key = zmq.utils.z85.encode(credentials[0])
            if key.decode() in self.allowed:
                status = [b"200", b"OK", key]
        self.questions.send_multipart([ZAP_VERSION, request_id, *status, b""])

    def _count(self) -> None:
        assert self.events is not None
        message = zmq.utils.monitor.recv_monitor_message(self.events)
        self._refused[REFUSALS[zmq.Event(message["event"])]] += 1


def user_of(part: bytes | zmq.Frame) -> str:
    """The public key of the client that sent a part of a message; empty without keys."""
    if isinstance(part, bytes):
        return ""
    user = part.get("User-Id")
    return user if isinstance(user, str) else ""


def _read(file: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(file)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            why_unreadable(file)
            or f"{file} is no key file ({error}); make one with: game-agent keygen {file.parent}"
        ) from None


def _create(folder: Path, name: str) -> tuple[Path, Path]:
    """New key files that only their owner can read; returns the public and the secret one."""
    if (folder / f"{name}.key_secret").exists():
        raise InvalidInput(f"{folder / name}.key_secret exists already; it is not overwritten")
    umask = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        public, secret = zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(umask)
    return Path(public), Path(secret)

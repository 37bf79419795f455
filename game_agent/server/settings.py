"""How a server listens and how patient it is."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from game_agent.errors import InvalidInput
from game_agent.protocol.limits import Limits

DEFAULT_BIND = "tcp://127.0.0.1:5761"
MIN_EXPIRY_MS = 60_000


@dataclass(frozen=True)
class ServerSettings:
    """Raises ``InvalidInput`` for an address that other computers reach without keys, and for bad
    durations.

    bind:         ``tcp://127.0.0.1:PORT`` (``*`` for any free one), ``tcp://[::1]:PORT`` or
                  ``ipc://PATH``; with ``curve_keys`` any address of this computer
    heartbeat_ms: how often a silent client should ``ping``
    expiry_ms:    a peer silent for so long is forgotten, its requests cancelled
    replay_s:     how long a terminal reply is kept for a repeated request
    drain_s:      how long a stopping server lets running asks go on
    metrics_port: where ``/metrics`` (Prometheus) and ``/healthz`` are served over HTTP, on this
                  computer only; 0: any free port; None: nowhere
    curve_keys:   a folder of keys (see ``security.KeyRing``): connections are encrypted, and only
                  clients whose key is there may connect; None: only this computer may
    state_dir:    a folder for worlds, agents and what they remember; None: they are not kept
    """

    bind: str = DEFAULT_BIND
    heartbeat_ms: int = 1_000
    expiry_ms: int = MIN_EXPIRY_MS
    replay_s: float = 60.0
    drain_s: float = 2.0
    metrics_port: int | None = None
    curve_keys: Path | None = None
    state_dir: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        _check_bind(self.bind, has_keys=self.curve_keys is not None)
        if self.heartbeat_ms < 1:
            raise InvalidInput("heartbeat_ms must be at least 1", where="heartbeat_ms")
        if self.expiry_ms < MIN_EXPIRY_MS:
            raise InvalidInput(f"expiry_ms must be at least {MIN_EXPIRY_MS}", where="expiry_ms")
        if not self.replay_s >= 0:
            raise InvalidInput("replay_s must not be negative", where="replay_s")
        if self.metrics_port is not None and not 0 <= self.metrics_port < 2**16:
            raise InvalidInput("metrics_port must be a port number", where="metrics_port")
        if not self.drain_s >= 0:
            raise InvalidInput("drain_s must not be negative", where="drain_s")


def _check_bind(bind: str, *, has_keys: bool) -> None:
    scheme, separator, address = bind.partition("://")
    if not separator or scheme not in ("tcp", "ipc"):
        raise InvalidInput(
            f"cannot listen at {bind!r}: an address begins with tcp:// or ipc://", where="bind"
        )
    if scheme == "tcp":
        _check_tcp(bind, address, has_keys=has_keys)
    elif not address or address[0] in "@*":
        # Neither an abstract name nor a file in a place of its own choosing is the owner's alone.
        raise InvalidInput(
            f"cannot listen at {bind!r}: name a file, such as ipc:///run/user/1000/game-agent",
            where="bind",
        )


def _check_tcp(bind: str, address: str, *, has_keys: bool) -> None:
    host, _, port = address.rpartition(":")
    if port != "*" and not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise InvalidInput(f"cannot listen at {bind!r}: it needs a port number", where="bind")
    try:
        is_loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback and not has_keys:
        raise InvalidInput(
            f"refusing to listen at {bind!r}: other computers could connect without a key; make "
            "keys with `game-agent keygen DIR` and add `--curve-keys DIR`, or bind to "
            "tcp://127.0.0.1:PORT",
            where="bind",
        )

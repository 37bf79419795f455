"""A client's runner plays against a server with the bundled model, without keys and with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conformance.play import play
from serving import ANY_PORT

from game_agent import Runtime
from game_agent.client import CurveKeys
from game_agent.server import ServerSettings, running
from game_agent.server.security import make_client_keys, make_server_keys


@contextmanager
def conformance_runtime() -> Iterator[Runtime]:
    """The bundled model."""
    runtime = Runtime.load()
    try:
        yield runtime
    finally:
        runtime.close()


@contextmanager
def serving(runtime: Runtime, curve_keys: Path | None = None) -> Iterator[str]:
    """A server's endpoint, while the block runs."""
    settings = ServerSettings(bind=ANY_PORT, drain_s=0.0, curve_keys=curve_keys)
    with running(runtime, settings) as server:
        yield server.endpoint


def check_conformance(command: Sequence[str], runtime: Runtime, folder: Path) -> None:
    """Raises ``Mismatch``. ``folder``: an empty one, for keys."""
    with serving(runtime) as endpoint:
        play(command, endpoint)
    make_server_keys(folder)
    make_client_keys(folder, "game")
    keys = CurveKeys.load(folder / "server.key", folder / "issued" / "game.key_secret")
    with serving(runtime, folder) as endpoint:
        play(command, endpoint, [key.decode() for key in (keys.server, keys.public, keys.secret)])

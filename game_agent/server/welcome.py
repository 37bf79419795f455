"""What ``hello`` tells a client."""

from __future__ import annotations

from dataclasses import asdict

import game_agent
from game_agent.errors import ProtocolError
from game_agent.protocol import VERSION
from game_agent.protocol.codec import Map
from game_agent.protocol.messages import KINDS, REQUESTS, Hello
from game_agent.server.backend import Backend
from game_agent.server.settings import ServerSettings


def check_protocol(hello: Hello) -> None:
    """Raise ``ProtocolError`` if the client speaks another version."""
    if hello.protocol not in (None, VERSION):
        raise ProtocolError(
            f"this server speaks version {VERSION} of the protocol, not {hello.protocol}",
            code="unsupported_version",
            where="protocol",
        )


def welcome(runtime: Backend, settings: ServerSettings, token: str, *, resumed: bool) -> Map:
    """The fields of the reply. ``capabilities`` lists the operations, and the kinds of ``ask``."""
    return {
        "server": f"game-agent {game_agent.__version__}",
        "protocol": VERSION,
        "session": token,
        "resumed": resumed,
        "capabilities": [*sorted(REQUESTS), *KINDS],
        "model": {
            "name": runtime.model_name,
            "max_context_tokens": runtime.max_context_tokens,
            "modes": list(runtime.modes),
        },
        "heartbeat_ms": settings.heartbeat_ms,
        "expiry_ms": settings.expiry_ms,
        "replay_s": settings.replay_s,
        "limits": asdict(settings.limits),
    }

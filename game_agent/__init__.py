"""A runtime for game characters: world state as cached KV blocks, answers in milliseconds.

Public names are resolved on first use (PEP 562), so that ``import game_agent.client`` works where
torch is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from game_agent.client import AsyncClient, Client, FrameClient
    from game_agent.runtime import Runtime

__all__ = ["AsyncClient", "Client", "FrameClient", "Runtime"]
__version__ = "0.1.0"

_HOMES = {
    "Runtime": "game_agent.runtime",
    "Client": "game_agent.client",
    "AsyncClient": "game_agent.client",
    "FrameClient": "game_agent.client",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'game_agent' has no attribute {name!r}")

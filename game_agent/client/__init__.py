"""Clients of the server. Needs pyzmq and msgpack, never torch."""

from game_agent.client import calls
from game_agent.client.aio import AsyncClient
from game_agent.client.client import Client
from game_agent.client.core import Answer
from game_agent.client.frame import FrameClient
from game_agent.client.pending import Pending, PendingTick
from game_agent.client.socket import CurveKeys
from game_agent.client.stream import AsyncStream, Stream, Tick

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "CurveKeys",
    "FrameClient",
    "Pending",
    "PendingTick",
    "Stream",
    "Tick",
    "calls",
]

"""Requests in, streamed text out: scheduling and the step loop."""

from game_agent.engine.engine import Engine
from game_agent.engine.handle import Handle
from game_agent.engine.request import Choice, Completion, Listener, Request, Sampling, Usage
from game_agent.engine.waiter import Waiter

__all__ = [
    "Choice",
    "Completion",
    "Engine",
    "Handle",
    "Listener",
    "Request",
    "Sampling",
    "Usage",
    "Waiter",
]

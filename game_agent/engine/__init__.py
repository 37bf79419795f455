"""Requests in, streamed text out: scheduling and the step loop."""

from game_agent.engine.engine import Engine, Handle, Waiter
from game_agent.engine.request import Completion, Listener, Request, Sampling, Usage

__all__ = ["Completion", "Engine", "Handle", "Listener", "Request", "Sampling", "Usage", "Waiter"]

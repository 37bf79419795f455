"""The runtime behind a ZeroMQ socket."""

from game_agent.server.settings import ServerSettings
from game_agent.server.transport import Server, serve

__all__ = ["Server", "ServerSettings", "serve"]

"""The runtime behind a ZeroMQ socket."""

from game_agent.server.serving import running, serve
from game_agent.server.settings import ServerSettings
from game_agent.server.transport import Server

__all__ = ["Server", "ServerSettings", "running", "serve"]

"""A whole server in a process of its own, to be killed."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from game_agent.config import EngineSettings
from game_agent.runtime import Runtime
from game_agent.server import Server, ServerSettings

# Where it can, a helper process imports torch once for all servers.
_METHODS = multiprocessing.get_all_start_methods()
_CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
if "forkserver" in _METHODS:
    _CONTEXT.set_forkserver_preload(["game_agent.runtime", "game_agent.server"])


def start(checkpoint: Path, state_dir: Path, bind: str) -> BaseProcess:
    """A server on a tiny model that keeps its state in ``state_dir``."""
    process = _CONTEXT.Process(target=_serve, args=(checkpoint, state_dir, bind), daemon=True)
    process.start()
    return process


def _serve(checkpoint: Path, state_dir: Path, bind: str) -> None:
    torch.set_num_threads(1)
    settings = EngineSettings(kv_memory_bytes=2**24)
    with (
        Runtime.load(checkpoint, device="cpu", settings=settings) as runtime,
        Server(runtime, ServerSettings(bind=bind, state_dir=state_dir)) as server,
    ):
        server.run()

"""The command line: ``game-agent serve``, ``demo``, ``chat``, ``train-bundled``."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Optional

import torch
import typer
from game_agent_demos import demo as textworld_demo
from rich.console import Console

from game_agent.chat import PROFILE, Chat
from game_agent.config import EngineSettings
from game_agent.engine.request import Mode
from game_agent.errors import GameAgentError, InvalidInput
from game_agent.runtime import Runtime
from game_agent.server import ServerSettings
from game_agent.server import serve as run_server
from game_agent.training.bundled import train_bundled
from game_agent_kernels.dispatch import set_num_threads

app = typer.Typer(
    help="Game characters that think and speak in real time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    Optional[str],  # noqa: UP045 — typer on Python 3.11 needs this form
    typer.Option(help="Checkpoint folder or Hub id; default: the bundled model."),
]
Device = Annotated[Optional[str], typer.Option(help="cpu, cuda, …; default: the best.")]  # noqa: UP045
Dtype = Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")]  # noqa: UP045
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all.")]
Memory = Annotated[float, typer.Option(help="GiB for cached keys and values.")]
DefaultMode = Annotated[
    str, typer.Option(help="block: for block-fine-tuned models; full: for any other.")
]


def load_runtime(
    model: str | None, device: str | None, dtype: str | None, threads: int, memory: float, mode: str
) -> Runtime:
    """A runtime from command line options."""
    if memory <= 0:
        raise InvalidInput("--kv-memory must be positive")
    if threads > 0:
        torch.set_num_threads(threads)
        set_num_threads(threads)
    default_mode: Mode = "full" if mode == "full" else "block"
    if mode not in Runtime.modes:
        raise InvalidInput(f"--mode must be one of {', '.join(Runtime.modes)}, not {mode}")
    settings = EngineSettings(kv_memory_bytes=int(memory * 2**30))
    return Runtime.load(
        model, device=device, dtype=dtype, settings=settings, default_mode=default_mode
    )


@app.command()
def serve(
    bind: Annotated[
        str, typer.Option(help="Address to listen at; loopback only.")
    ] = ServerSettings().bind,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = 0,
    kv_memory: Memory = 1.0,
    mode: DefaultMode = "block",
    verbose: Annotated[bool, typer.Option(help="Log every connection.")] = False,
) -> None:
    """Answer game engines over ZeroMQ until interrupted."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    settings = ServerSettings(bind=bind)
    with load_runtime(model, device, dtype, threads, kv_memory, mode) as runtime:
        run_server(runtime, settings)


@app.command()
def demo(
    ticks: Annotated[int, typer.Option(help="How many actions to play.")] = 30,
    seed: Annotated[int, typer.Option(help="Which game to build.")] = 1,
    model: Model = None,
) -> None:
    """Play a TextWorld game and let a companion answer about its world, tick by tick."""
    raise typer.Exit(textworld_demo.run(ticks=ticks, seed=seed, model=model))


@app.command()
def chat(
    model: Model = None,
    name: Annotated[str, typer.Option(help="The character's name.")] = "Mira",
    profile: Annotated[str, typer.Option(help="Who the character is.")] = PROFILE,
    world: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A JSON file with the state of the world; default: a village."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = 0,
    kv_memory: Memory = 1.0,
    mode: DefaultMode = "block",
) -> None:
    """Talk to a character in the terminal."""
    with load_runtime(model, device, dtype, threads, kv_memory, mode) as runtime:
        conversation = Chat(runtime, Console(), name=name, profile=profile)
        if world is not None:
            conversation.load_world(read_world(world))
        conversation.run()


@app.command("train-bundled")
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")],
    preset: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Time to train; default: the preset's."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in OUT.")] = True,
) -> None:
    """Train the bundled model from scratch on scenes that the project makes."""
    train_bundled(preset, out, minutes=minutes, resume=resume)


def read_world(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises :class:`InvalidInput` naming the file."""
    try:
        state = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(state, dict):
        raise InvalidInput(f"{path} must hold a JSON object")
    return state


def main() -> None:
    """Entry point: an error is one sentence on stderr and exit status 1."""
    try:
        app()
    except GameAgentError as error:
        typer.echo(f"game-agent: {error.message}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

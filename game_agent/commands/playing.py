"""``demo`` and ``chat``: a first look at what characters do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from game_agent.chat import PROFILE, Chat
from game_agent.commands.options import (
    DefaultMode,
    Device,
    Dtype,
    Format,
    KvDtype,
    Memory,
    Model,
    Prefix,
    Threads,
    Weights,
    load_runtime,
)
from game_agent.errors import InvalidInput
from game_agent.inspecting import read_json
from game_agent.model.runner import AUTO
from game_agent_demos import demo as textworld_demo
from game_agent_demos.poker import demo as poker_demo

DEMOS: dict[str, Callable[..., int]] = {"textworld": textworld_demo.run, "poker": poker_demo.run}


def demo(
    game: Annotated[str, typer.Argument(help="textworld or poker.")] = "textworld",
    ticks: Annotated[int, typer.Option(help="How many actions to play.")] = 30,
    seed: Annotated[int, typer.Option(help="Which game to build.")] = 1,
    model: Model = None,
) -> None:
    """Play a game: a TextWorld house with a companion, or poker with six players that choose."""
    if game not in DEMOS:
        raise InvalidInput(f"there is no demo {game!r}; there are {', '.join(DEMOS)}")
    raise typer.Exit(DEMOS[game](ticks=ticks, seed=seed, model=model))


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
    weights: Weights = None,
    kv_dtype: KvDtype = AUTO,
    threads: Threads = 0,
    kv_memory: Memory = 1.0,
    mode: DefaultMode = "block",
    prompt_format: Format = None,
    prompt_prefix: Prefix = "",
) -> None:
    """Talk to a character in the terminal."""
    with load_runtime(
        model,
        device,
        dtype,
        threads,
        kv_memory,
        mode,
        weights=weights,
        kv_dtype=kv_dtype,
        prompt_format=prompt_format,
        prompt_prefix=prompt_prefix,
    ) as runtime:
        conversation = Chat(runtime, Console(), name=name, profile=profile)
        if world is not None:
            conversation.load_world(read_world(world))
        conversation.run()


def read_world(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises :class:`InvalidInput` naming the file."""
    state = read_json(path)
    if not isinstance(state, dict):
        raise InvalidInput(f"{path} must hold a JSON object")
    return state

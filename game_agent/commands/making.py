"""``partition`` and ``train-bundled``: for those who prepare a game or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from game_agent.commands.options import Format, Model
from game_agent.inspecting import show_partition
from game_agent.training.bundled import train_bundled


def partition(
    file: Annotated[Path, typer.Argument(help="A JSON file with the state of a world.")],
    patch: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A JSON Patch or Merge Patch; what it would encode is marked *."),
    ] = None,
    rules: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Rules of the partition, a JSON array (see docs/protocol.md)."),
    ] = None,
    model: Model = None,
    prompt_format: Format = None,
) -> None:
    """Show how a world is cut into blocks, and their tokens."""
    show_partition(
        Console(), file, patch=patch, rules=rules, model=model, prompt_format=prompt_format
    )


def train(
    out: Annotated[
        Path, typer.Option(help="Folder of the finished model; OUT-training gets its checkpoint.")
    ],
    preset: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Time to train; default: the preset's."),
    ] = None,
    tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Train so many tokens, whatever time that takes."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from what is in OUT-training.")] = True,
    causal_only: Annotated[
        bool, typer.Option("--causal-only", help="No block mask: a stand-in for stock models.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of weights and scenes, for several trainings.")] = 0,
    measure: Annotated[bool, typer.Option(help="Measure it and write its card: minutes.")] = True,
    start: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of an earlier result to begin with; default: from scratch."),
    ] = None,
) -> None:
    """Train the bundled model on scenes that the project makes."""
    train_bundled(
        preset,
        out,
        minutes=minutes,
        tokens=tokens,
        resume=resume,
        causal_only=causal_only,
        seed=seed,
        measure=measure,
        start=start,
    )

"""``finetune``: a checkpoint learns to read blocks that were encoded alone."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from game_agent.commands.options import Format, Prefix
from game_agent.finetuning.settings import Settings
from game_agent.model.checkpoint import resolve


def finetune(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id to begin with.")],
    data: Annotated[list[Path], typer.Option(help="JSONL to learn from (docs/finetuning.md).")],
    out: Annotated[Path, typer.Option(help="Folder to write; OUT-training gets log and state.")],
    held_out: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="JSONL to measure on, now and then."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the optimizer.")] = Settings.steps,
    max_tokens: Annotated[
        int, typer.Option(help="Most tokens of a sample, and of a row of packed samples.")
    ] = Settings.max_tokens,
    rows: Annotated[int, typer.Option(help="Rows in a step, of each process.")] = Settings.rows,
    masks: Annotated[str, typer.Option(help="both, block or full.")] = Settings.masks,
    learning_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="The highest; default: 2e-5, with LoRA 2e-4."),
    ] = None,
    warm_up: Annotated[
        float, typer.Option(help="Share of the steps in which it rises.")
    ] = Settings.warm_up,
    schedule: Annotated[str, typer.Option(help="cosine or linear.")] = Settings.schedule,
    weight_decay: float = Settings.weight_decay,
    max_grad_norm: float = Settings.max_grad_norm,
    dtype: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="float32 or bfloat16 products; default: bfloat16 on a GPU."),
    ] = None,
    lora_rank: Annotated[
        int, typer.Option(help="Learn adapters of this rank; 0: all weights.")
    ] = Settings.lora_rank,
    lora_alpha: int = Settings.lora_alpha,
    lora_dropout: float = Settings.lora_dropout,
    merge: Annotated[
        bool, typer.Option(help="Add adapters to the weights; else OUT is an adapter.")
    ] = Settings.merge,
    checkpointing: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="Much less memory, a third more time; default: on a GPU."),
    ] = None,
    attention: Annotated[str, typer.Option(help="sdpa or flex_attention.")] = Settings.attention,
    segmentation: Annotated[
        str, typer.Option(help="How chats are cut: turns, passages or prompt.")
    ] = Settings.segmentation,
    prompt_format: Format = None,
    prompt_prefix: Prefix = "",
    sink: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A text that every block is encoded behind."),
    ] = None,
    on_bad_data: Annotated[str, typer.Option(help="stop or skip.")] = Settings.on_bad_data,
    evaluate_every: Annotated[int, typer.Option(help="Steps.")] = Settings.evaluate_every,
    save_every: Annotated[int, typer.Option(help="Steps.")] = Settings.save_every,
    seed: int = Settings.seed,
    cpu: Annotated[bool, typer.Option("--cpu", help="Although there is a GPU.")] = Settings.cpu,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do not go on from what is in OUT-training.")
    ] = False,
) -> None:
    """Turn a checkpoint into one that answers in block mode (arXiv 2409.15355)."""
    given: dict[str, Any] = dict(locals())
    restart = given.pop("restart")
    given |= {"model": resolve(model), "data": tuple(data), "held_out": tuple(held_out or ())}
    settings = Settings(**given)
    # Loading what trains takes seconds, which other commands need not wait for.
    import_module("game_agent.finetuning.finetune").finetune(settings, resume=not restart)

"""Block fine-tuning from beginning to end: data, model, steps, result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from game_agent.errors import InvalidInput, TrainingError
from game_agent.finetuning.card import result_card
from game_agent.finetuning.checkpoints import Checkpoints, run_kind
from game_agent.finetuning.log import RunLog
from game_agent.finetuning.model import load_model
from game_agent.finetuning.packages import package
from game_agent.finetuning.reading import Problem, check_problems, read_records
from game_agent.finetuning.result import write_result
from game_agent.finetuning.room import check_room
from game_agent.finetuning.samples import Sample, SampleEncoder, num_shared
from game_agent.finetuning.settings import Settings
from game_agent.finetuning.training import Training


@dataclass(frozen=True)
class _Data:
    """What there is to learn from and to measure on, and what was left out."""

    samples: list[Sample]
    held_out: list[Sample]
    problems: list[Problem]


def finetune(settings: Settings, *, resume: bool = True, console: Console | None = None) -> None:
    """Fine-tune ``settings.model`` and write ``settings.out``, a Hugging Face folder.

    Log and checkpoints lie in ``settings.work``; ``resume`` goes on from the last of them. Several
    processes, and models cut over several GPUs, as ``accelerate launch`` says. Ctrl-C and SIGTERM
    end it after a step, with a checkpoint.

    Raises :class:`InvalidInput`, :class:`ModelError` and :class:`TrainingError`; nothing is left
    half-written.
    """
    accelerate = package("accelerate")
    if settings.out.exists():
        raise InvalidInput(f"{settings.out} exists already; name another folder, or remove it")
    data = _read(settings)
    accelerator = _accelerator(accelerate, settings)
    if settings.attention == "flex_attention" and accelerator.device.type == "cpu":
        raise InvalidInput("flex_attention cannot learn on a CPU; use sdpa", where="attention")
    log = RunLog(
        settings.work / "log.jsonl", console or Console(), is_main=accelerator.is_main_process
    )
    try:
        _train(settings, accelerator, data, log, resume=resume)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the GPU's memory is too small ({str(error).split('. ')[0]}). A smaller --max-tokens, "
            "--checkpointing, --attention flex_attention, --lora-rank, or more GPUs with "
            "`accelerate launch` (FSDP) need less on each; see docs/finetuning.md"
        ) from error


def _train(settings: Settings, accelerator: Any, data: _Data, log: RunLog, *, resume: bool) -> None:
    kind = run_kind(settings, accelerator.num_processes)
    checkpoints = Checkpoints(settings.work, accelerator, kind)
    checkpoints.prepare(resume=resume)
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    on_gpu = accelerator.device.type == "cuda"
    given = settings.checkpointing
    model, saved = load_model(settings, dtype, checkpointing=on_gpu if given is None else given)
    if accelerator.num_processes == 1:
        check_room(settings, model, saved, has_checkpoint=checkpoints.has_one)
    with log:
        training = Training(settings, accelerator, model, data.samples, data.held_out, log)
        start = checkpoints.load()
        log.begin(start, settings.steps)
        _tell(log, settings, data, start, accelerator)
        training.run(start, checkpoints.save)
    state = accelerator.get_state_dict(training.model)
    if accelerator.is_main_process:
        card = result_card(settings, len(data.samples), len(data.problems), training.measured)
        write_result(settings, accelerator.unwrap_model(training.model), state, saved, card)
        log.write("done", step=settings.steps, out=str(settings.out))
        log.say(f"wrote {settings.out}")
    accelerator.wait_for_everyone()


def _read(settings: Settings) -> _Data:
    """Raises :class:`InvalidInput` for bad records, unless they are to be left out."""
    encoder = SampleEncoder(
        settings.model,
        settings.max_tokens,
        prompt_format=settings.prompt_format,
        prompt_prefix=settings.prompt_prefix,
        sink=settings.sink,
    )
    samples, problems = _samples(encoder, settings, settings.data)
    held_out, others = _samples(encoder, settings, settings.held_out)
    return _Data(samples, held_out, problems + others)


def _samples(
    encoder: SampleEncoder, settings: Settings, files: Sequence[Path]
) -> tuple[list[Sample], list[Problem]]:
    if not files:
        return [], []
    records, problems = read_records(files, settings.segmentation)
    samples, too_long = encoder.encode(records)
    problems += too_long
    check_problems(problems, len(samples), settings.on_bad_data)
    return samples, problems


def _accelerator(accelerate: Any, settings: Settings) -> Any:
    """Accelerate's, which takes devices and sharding from ``accelerate config`` or its launcher."""
    precision = {"float32": "no", "bfloat16": "bf16", None: None}[settings.dtype]
    if precision is None and torch.cuda.is_available() and not settings.cpu:
        precision = "bf16"
    accelerator = accelerate.Accelerator(
        cpu=settings.cpu,
        mixed_precision=precision,
        gradient_accumulation_steps=settings.rows * len(settings.modes),
    )
    if accelerator.state.deepspeed_plugin is not None:
        # There is no data loader to tell it.
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    return accelerator


def _tell(log: RunLog, settings: Settings, data: _Data, start: int, accelerator: Any) -> None:
    """What there is to learn from, and what was left out."""
    if not start:
        log.write(
            "start",
            settings=settings.plain(),
            samples=len(data.samples),
            skipped=len(data.problems),
            processes=accelerator.num_processes,
        )
        for problem in data.problems:
            log.write("skipped", where=problem.where, reason=problem.reason)
    for problem in data.problems[:5]:
        log.say(f"left out: {problem.where}: {problem.reason}")
    if len(data.problems) > 5:
        log.say(f"left out: {len(data.problems) - 5} more, see {settings.work / 'log.jsonl'}")
    if known := num_shared(data.samples, data.held_out):
        log.say(f"{known} held-out questions are also learned from: they measure nothing new")
    begun = f", going on after step {start}" if start else ""
    precision = {"no": "float32", "bf16": "bfloat16"}.get(accelerator.mixed_precision, "float16")
    where = f"{accelerator.num_processes} × {accelerator.device.type}, {precision} products"
    log.say(f"{len(data.samples)} samples, {settings.steps} steps on {where}{begun}")

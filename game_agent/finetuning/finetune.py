"""Block fine-tuning from beginning to end: data, model, steps, result."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console

from game_agent.errors import InvalidInput
from game_agent.finetuning.card import result_card
from game_agent.finetuning.checkpoints import Checkpoints, run_kind
from game_agent.finetuning.log import RunLog
from game_agent.finetuning.model import load_model
from game_agent.finetuning.packages import package
from game_agent.finetuning.reading import Problem, check_problems, read_records
from game_agent.finetuning.result import write_result
from game_agent.finetuning.samples import Sample, SampleEncoder
from game_agent.finetuning.settings import Settings
from game_agent.finetuning.training import Training


def finetune(settings: Settings, *, resume: bool = True, console: Console | None = None) -> None:
    """Fine-tune ``settings.model`` and write ``settings.out``, a Hugging Face folder.

    Log and checkpoints lie in ``settings.work``; ``resume`` goes on from the last of them. Several
    processes, and models cut over several GPUs, as ``accelerate launch`` says.

    Raises :class:`InvalidInput` and :class:`ModelError`; nothing is left half-written.
    """
    accelerate = package("accelerate")
    if settings.out.exists():
        raise InvalidInput(f"{settings.out} exists already; name another folder, or remove it")
    encoder = SampleEncoder(
        settings.model,
        settings.max_tokens,
        prompt_format=settings.prompt_format,
        prompt_prefix=settings.prompt_prefix,
        sink=settings.sink,
    )
    samples, problems = _samples(encoder, settings, held_out=False)
    held_out, others = _samples(encoder, settings, held_out=True) if settings.held_out else ([], [])
    problems += others
    accelerator = _accelerator(accelerate, settings)
    if settings.attention == "flex_attention" and accelerator.device.type == "cpu":
        raise InvalidInput("flex_attention cannot learn on a CPU; use sdpa", where="attention")
    checkpoints = Checkpoints(
        settings.work, accelerator, run_kind(settings, accelerator.num_processes)
    )
    checkpoints.prepare(resume=resume)
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    model, saved = load_model(settings, dtype)
    log = RunLog(
        settings.work / "log.jsonl", console or Console(), is_main=accelerator.is_main_process
    )
    with log:
        training = Training(settings, accelerator, model, samples, held_out, log)
        start = checkpoints.load()
        log.begin(start, settings.steps)
        _tell(log, settings, samples, problems, start, accelerator.num_processes)
        training.run(start, checkpoints.save)
    state = accelerator.get_state_dict(training.model)
    if accelerator.is_main_process:
        card = result_card(settings, len(samples), len(problems), training.measured)
        write_result(settings, accelerator.unwrap_model(training.model), state, saved, card)
        log.write("done", step=settings.steps, out=str(settings.out))
        log.say(f"wrote {settings.out}")
    accelerator.wait_for_everyone()


def _samples(
    encoder: SampleEncoder, settings: Settings, *, held_out: bool
) -> tuple[list[Sample], list[Problem]]:
    files = settings.held_out if held_out else settings.data
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


def _tell(
    log: RunLog,
    settings: Settings,
    samples: list[Sample],
    problems: list[Problem],
    start: int,
    num_processes: int,
) -> None:
    """What there is to learn from, and what was left out."""
    if not start:
        log.write(
            "start",
            settings=settings.plain(),
            samples=len(samples),
            skipped=len(problems),
            processes=num_processes,
        )
        for problem in problems:
            log.write("skipped", where=problem.where, reason=problem.reason)
    for problem in problems[:5]:
        log.say(f"left out: {problem.where}: {problem.reason}")
    if len(problems) > 5:
        log.say(f"left out: {len(problems) - 5} more, see {settings.work / 'log.jsonl'}")
    begun = f", going on after step {start}" if start else ""
    log.say(f"{len(samples)} samples, {settings.steps} steps{begun}")

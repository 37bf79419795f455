"""Room on the disk: a run that cannot keep its checkpoints is told so before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from game_agent.errors import InvalidInput
from game_agent.finetuning.settings import Settings

_GB = 1e9
_ADAM_BYTES = 8  # per weight that is learned


def check_room(
    settings: Settings, model: torch.nn.Module, saved: torch.dtype, *, has_checkpoint: bool
) -> None:
    """Raises :class:`InvalidInput` where checkpoints and result of a whole model do not fit.

    saved: dtype of the result; has_checkpoint: one of them lies there already
    """
    checkpoint, result = _sizes(settings, model, saved)
    # The one before is removed when the next is whole.
    num = min(2, (settings.steps - 1) // settings.save_every) if settings.save_every else 0
    needed = result + checkpoint * max(0, num - has_checkpoint)
    folder = next(each for each in settings.work.absolute().parents if each.exists())
    free = _free_bytes(folder)
    if needed > free:
        raise InvalidInput(
            f"the run needs {needed / _GB:.1f} GB in {folder} ({num} checkpoints of "
            f"{checkpoint / _GB:.1f} GB and the result), {free / _GB:.1f} GB are free; name "
            "another --out, or keep no checkpoints with --save-every 0"
        )


def _sizes(settings: Settings, model: torch.nn.Module, saved: torch.dtype) -> tuple[int, int]:
    """Bytes of (a checkpoint, the result)."""
    weights = list(model.parameters())
    learned = sum(weight.numel() for weight in weights if weight.requires_grad)
    held = sum(weight.nbytes for weight in weights)
    is_whole = settings.merge or not settings.lora_rank
    count = sum(weight.numel() for weight in weights) if is_whole else learned
    return held + _ADAM_BYTES * learned, count * saved.itemsize


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free

"""What a block fine-tuning is told: data, sizes and rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from game_agent.errors import InvalidInput
from game_agent.finetuning.reading import ON_BAD_DATA, OnBadData
from game_agent.finetuning.records import SEGMENTATIONS, Segmentation

Attention = Literal["sdpa", "flex_attention"]
Masks = Literal["both", "block", "full"]
Schedule = Literal["cosine", "linear"]
Dtype = Literal["float32", "bfloat16"]
_CHOICES: dict[str, Sequence[object]] = {
    "masks": get_args(Masks),
    "schedule": get_args(Schedule),
    "dtype": (None, *get_args(Dtype)),
    "attention": get_args(Attention),
    "segmentation": SEGMENTATIONS,
    "on_bad_data": ON_BAD_DATA,
}
# A run may go on with others of these.
_FREE = {"out", "held_out", "evaluate_every", "save_every", "cpu", "on_bad_data"}
_RATE, _LORA_RATE = 2e-5, 2e-4


@dataclass(frozen=True)
class Settings:
    """All settings of a run. Raises :class:`InvalidInput` for values that make no sense.

    model, out:     checkpoint folder to begin with; folder to write, which must not exist
    data, held_out: JSON Lines files to learn from, and to measure on
    steps:          optimizer steps
    max_tokens:     of a sample, and of a row of packed samples
    rows:           rows in one step, of each process; they pass the model one after another
    masks:          ``both``: each row is learned in block mode and in full mode
    learning_rate:  the highest; None: 2e-5 (the paper's is 2e-6 to 2e-5), with LoRA 2e-4
    warm_up:        share of the steps in which the rate rises; after them it falls to 0
    dtype:          of the products of matrices; None: bfloat16 on a GPU. Weights that are learned
                    stay in float32; those that LoRA leaves alone are held in ``dtype``
    lora_rank:      0 learns all weights
    merge:          add what LoRA learned to the weights; else the result is an adapter
    checkpointing:  compute activations again in the backward pass, for much less memory and a third
                    more time; None: on a GPU
    sink, prompt_format, prompt_prefix: as the runtime will be told, see ``load_runner``
    evaluate_every, save_every: steps; 0: only at the end
    """

    model: Path
    out: Path
    data: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()
    steps: int = 800
    max_tokens: int = 4096
    rows: int = 8
    masks: Masks = "both"
    learning_rate: float | None = None
    warm_up: float = 0.05
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    dtype: Dtype | None = None
    lora_rank: int = 0
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    merge: bool = True
    checkpointing: bool | None = None
    attention: Attention = "sdpa"
    segmentation: Segmentation = "passages"
    prompt_format: str | None = None
    prompt_prefix: str = ""
    sink: str | None = None
    on_bad_data: OnBadData = "stop"
    evaluate_every: int = 100
    save_every: int = 100
    seed: int = 0
    cpu: bool = False

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidInput("there is no data to learn from", where="data")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(str(choice) for choice in choices if choice is not None)
                raise InvalidInput(f"{name} must be one of {known}", where=name)
        for name, lowest in (("steps", 1), ("rows", 1), ("max_tokens", 2), ("lora_rank", 0)):
            if getattr(self, name) < lowest:
                raise InvalidInput(f"{name} must be at least {lowest}", where=name)
        for name in ("evaluate_every", "save_every", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InvalidInput(f"{name} must not be negative", where=name)
        for name in ("top_rate", "max_grad_norm", "lora_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInput(f"{name} must be positive", where=name)
        for name in ("warm_up", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} must lie between 0 and 1", where=name)

    @property
    def top_rate(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _LORA_RATE if self.lora_rank else _RATE

    @property
    def modes(self) -> tuple[bool, ...]:
        """For each pass over a row, whether it is in full mode."""
        return {"both": (False, True), "block": (False,), "full": (True,)}[self.masks]

    @property
    def work(self) -> Path:
        """The folder of the log and of checkpoints."""
        return self.out.with_name(f"{self.out.name}-training")

    def rate(self, step: int) -> float:
        """The learning rate of step 0 … ``steps`` - 1."""
        num_warm = math.ceil(self.warm_up * self.steps)
        if step < num_warm:
            return self.top_rate * (step + 1) / num_warm
        share = (step - num_warm) / (self.steps - num_warm)
        left = 1 - share if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))
        return self.top_rate * left

    def lasting(self) -> dict[str, object]:
        """What must be the same when a run goes on, as plain JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _FREE}
        return {**values, "model": str(self.model.resolve()), "data": len(self.data)}

    def plain(self) -> dict[str, object]:
        """All settings as plain JSON, for the log."""
        return {
            key: str(v)
            if isinstance(v, Path)
            else [str(p) for p in v]
            if isinstance(v, tuple)
            else v
            for key, v in asdict(self).items()
        }

"""Running means of what a training shows of itself: its loss, and how often replies are right."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from game_agent.errors import TrainingError
from game_agent.training.batches import Batch

SMOOTHING = 0.96
BEGINNING = {"loss": 8.0, "block": 0.0, "full": 0.0, "random": 0.0}


class Figures:
    """``values``: the loss, and the share of replies that are right by the name of the batch.

    Each fetch from a GPU waits until it has nothing left to do, so there are ``fetch_every`` steps
    between them; the means are the same.
    """

    def __init__(self, fetch_every: int = 1) -> None:
        self.values = dict(BEGINNING)
        self._fetch_every = fetch_every
        self._names: list[str] = []
        self._noted: list[Tensor] = []

    def note(self, name: str, loss: Tensor, right: Tensor) -> None:
        """What a step on a batch of that name has given; scalars. Raises as :meth:`fetch` does."""
        self._names.append(name)
        self._noted.append(torch.stack([loss.detach(), right]))
        if len(self._names) >= self._fetch_every:
            self.fetch()

    def fetch(self) -> None:
        """Bring ``values`` up to date. Raises :class:`TrainingError` if a loss is not a number."""
        noted = torch.stack(self._noted).tolist() if self._noted else []
        for name, (loss, right) in zip(self._names, noted, strict=True):
            if not math.isfinite(loss):
                raise TrainingError(
                    "the loss is not a number any more; the last checkpoint is from before, and "
                    "goes on with other scenes"
                )
            self._add(name, right)
            if name != "random":
                self._add("loss", loss)
        self._names.clear()
        self._noted.clear()

    def load(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)

    def _add(self, name: str, value: float) -> None:
        self.values[name] = SMOOTHING * self.values[name] + (1 - SMOOTHING) * value

    def __str__(self) -> str:
        return " ".join(f"{name} {value:.3f}" for name, value in self.values.items())


def exact_share(logits: Tensor, batch: Batch) -> Tensor:
    """Share of questions of which every reply token is the likeliest: logits [N, vocab]."""
    wrong = torch.zeros(batch.num_questions, device=logits.device)
    wrong.index_add_(0, batch.label_questions, (logits.argmax(-1) != batch.labels).float())
    return (wrong == 0).float().mean()

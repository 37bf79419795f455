"""The loop of block fine-tuning: steps over packed rows in both masks, measured now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from game_agent.errors import TrainingError
from game_agent.finetuning.attention import num_exact, reply_logits, reply_loss
from game_agent.finetuning.log import RunLog
from game_agent.finetuning.rows import Row, make_row, pack
from game_agent.finetuning.samples import Sample
from game_agent.finetuning.schedule import Groups, steps
from game_agent.finetuning.settings import Settings
from game_agent.stopping import stop_asked

_NAMES = {False: "block", True: "full"}


@dataclass(frozen=True)
class Figures:
    """Loss per reply token in nats, and share of replies right in every token, in one mode."""

    loss: float
    exact: float


class Training:
    """A model in training. ``accelerator`` is accelerate's, and accumulates one step's passes."""

    def __init__(
        self,
        settings: Settings,
        accelerator: Any,
        model: Any,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        log: RunLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self._samples = samples
        self._held_out = held_out
        self._log = log
        self._clock = clock
        learned = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            learned,
            lr=settings.top_rate,
            weight_decay=settings.weight_decay,
            # Its other form for GPUs makes copies as large as all weights.
            fused=accelerator.device.type == "cuda",
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.measured: dict[str, Figures] = {}
        self._is_stopped: Callable[[], bool] = lambda: False

    def run(self, start: int, save: Callable[[int], None]) -> None:
        """All steps from ``start`` on; ``save`` is called with how many have been done.

        Ctrl-C and SIGTERM stop it after a step: it saves, and raises ``KeyboardInterrupt``.
        Raises :class:`TrainingError` where it cannot go on.
        """
        settings = self.settings
        num_rows = settings.rows * self.accelerator.num_processes
        stream = steps(self._samples, settings.max_tokens, settings.seed, num_rows, start)
        if not start:
            self.measure(0)
        with stop_asked() as self._is_stopped:
            for step, groups in zip(range(start, settings.steps), stream, strict=False):
                is_stopped = self._step(step, groups)
                done = step + 1
                if not is_stopped and (
                    done == settings.steps or _is_due(done, settings.evaluate_every)
                ):
                    self.measure(done)
                if done < settings.steps and (is_stopped or _is_due(done, settings.save_every)):
                    save(done)
                if is_stopped:
                    self._log.say(f"stopped after step {done}; the same command goes on from here")
                    raise KeyboardInterrupt

    def _step(self, step: int, groups: Groups) -> bool:
        """One step; whether any process was asked to stop meanwhile."""
        begun, rate = self._clock(), self.settings.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        num_labels = sum(
            len(reply) for group in groups for i in group for _, reply in self._samples[i].questions
        )
        sums = self._learn(groups, num_labels)
        sums[3] = self._is_stopped()
        *sums_of, num_tokens, stopped = self.accelerator.reduce(sums, "sum").tolist()
        losses = {_NAMES[full]: sums_of[full] / num_labels for full in self.settings.modes}
        self._report(step + 1, losses, rate, num_tokens, self._clock() - begun)
        if not all(map(math.isfinite, losses.values())):
            raise TrainingError(
                f"the loss is not a number after step {step + 1}; the last checkpoint is from "
                "before. Begin anew with --restart and a lower --learning-rate"
            )
        return bool(stopped)

    def _learn(self, groups: Groups, num_labels: int) -> Tensor:
        """The passes of one step over this process's rows, and the change of the weights.

        Returns [4]: losses in block mode and in full mode, tokens, 0; ``num_labels`` are those of
        all processes.
        """
        accelerator, settings = self.accelerator, self.settings
        mine = groups[accelerator.process_index :: accelerator.num_processes]
        passes = [(group, full) for group in mine for full in settings.modes]
        # Processes' gradients are averaged, and passes' by backward(): what counts is the sum.
        scale = accelerator.num_processes * len(passes) / (num_labels * len(settings.modes))
        sums = torch.zeros(4, device=accelerator.device)
        for group, full in passes:
            row = self._row(group, full=full)
            with self._accumulate():
                loss = reply_loss(self._logits(row), row)
                accelerator.backward(loss * scale)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            sums[int(full)] += loss.detach()
            sums[2] += len(row)
        return sums

    def _report(
        self, step: int, losses: dict[str, float], rate: float, num_tokens: float, seconds: float
    ) -> None:
        self._log.write(
            "step",
            step=step,
            loss=losses,
            learning_rate=rate,
            tokens=int(num_tokens),
            tokens_per_s=round(num_tokens / max(seconds, 1e-9)),
        )
        self._log.show(step, "loss " + ", ".join(f"{k} {v:.3f}" for k, v in losses.items()))

    def measure(self, step: int) -> None:
        """Loss and exact replies on the held-out samples, in both modes; none without them."""
        if not self._held_out:
            return
        self.model.eval()
        self.measured = {name: self._figures(full=full) for full, name in _NAMES.items()}
        self.model.train()
        self._log.write(
            "evaluation", step=step, **{name: asdict(f) for name, f in self.measured.items()}
        )
        told = ", ".join(
            f"{name}: loss {f.loss:.3f}, {f.exact:.1%} right" for name, f in self.measured.items()
        )
        self._log.say(f"step {step}, held out: {told}")

    @torch.no_grad()
    def _figures(self, *, full: bool) -> Figures:
        held_out, accelerator = self._held_out, self.accelerator
        groups = list(pack(held_out, range(len(held_out)), self.settings.max_tokens))
        found = [0.0, 0.0, 0.0, 0.0]
        # Sharded models need all processes at every pass: those without a row repeat the last.
        for first in range(0, len(groups), accelerator.num_processes):
            index = first + accelerator.process_index
            row = self._row(groups[min(index, len(groups) - 1)], full=full, held_out=True)
            logits = self._logits(row)
            if index < len(groups):
                loss = reply_loss(logits, row).item()
                counts = (loss, len(row.labels), num_exact(logits, row), row.num_questions)
                found = [a + b for a, b in zip(found, counts, strict=True)]
        sums = torch.tensor(found, device=accelerator.device)
        loss, num_labels, right, asked = accelerator.reduce(sums, "sum").tolist()
        return Figures(loss / num_labels, right / asked)

    def _row(self, group: list[int], *, full: bool, held_out: bool = False) -> Row:
        samples = self._held_out if held_out else self._samples
        return make_row([samples[i] for i in group], full=full).to(self.accelerator.device)

    def _logits(self, row: Row) -> Tensor:
        return reply_logits(self.model, row, self.settings.attention)

    def _accumulate(self) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self.accelerator.accumulate(self.model)
        return context


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0

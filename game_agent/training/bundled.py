"""Training of the bundled model, from nothing to a checkpoint folder."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from game_agent.errors import InvalidInput
from game_agent.training.batches import LEVELS, Batch, Mix, make_batch
from game_agent.training.card import model_card
from game_agent.training.evaluate import evaluate_all
from game_agent.training.export import export, load_exported
from game_agent.training.network import Network
from game_agent.training.optimizer import MuonAdam
from game_agent.training.presets import PRESETS, Preset
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.schedule import Budget, random_share, rate_factor
from game_agent.training.seeding import seed_induction
from game_agent.training.tokens import plain_copy, train_tokenizer

LOG_EVERY_S = 10.0
SAVE_EVERY_S = 120.0
PROMOTE_AT = 0.65  # of replies right, to go to the next level
# Shares of the time: a level is due each PROMOTE_EVERY after PROMOTE_FROM, mastered or not.
PROMOTE_FROM, PROMOTE_EVERY = 0.3, 0.09
SMOOTHING = 0.96


class SceneStream(IterableDataset[tuple[Batch, str]]):
    """Batches without end; ``level`` and ``random_share`` may be changed while workers run."""

    def __init__(
        self, tokenizer: str, batch_tokens: int, seed: int, full_share: float = Mix.full_share
    ) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._full_share = full_share
        self.level = torch.zeros((), dtype=torch.int64).share_memory_()
        self.random_share = torch.zeros(()).share_memory_()

    def __iter__(self) -> Iterator[tuple[Batch, str]]:
        worker = get_worker_info()
        rng = random.Random(f"{self._seed} {worker.id if worker else 0}")
        tokenizer = plain_copy(Tokenizer.from_str(self._tokenizer))
        while True:
            mix = Mix(
                level=int(self.level),
                random_share=float(self.random_share),
                full_share=self._full_share,
                batch_tokens=self._batch_tokens,
            )
            yield make_batch(rng, tokenizer, mix)


class Training:
    """A network in training: its optimizer, its place in the curriculum, its running figures.

    With ``causal_only`` it never sees a block encoded alone, as stock models have not.
    """

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        *,
        clock: Callable[[], float],
        causal_only: bool = False,
    ) -> None:
        self.preset = preset
        self.causal_only = causal_only
        self.folder = folder
        self._clock = clock
        torch.manual_seed(preset.seed)
        self.device = torch.device(preset.device)
        self.tokenizer = _tokenizer(preset, folder / "tokenizer.json")
        network = Network(preset.size)
        seed_induction(network, torch.Generator().manual_seed(preset.seed))
        self.network = network.to(self.device)
        self.optimizer = MuonAdam(self.network, preset.muon_rate, preset.adam_rate)
        self.figures: dict[str, float] = {"loss": 8.0, "block": 0.0, "full": 0.0, "random": 0.0}
        self.elapsed_s = 0.0
        self.num_steps = 0
        self.num_tokens = 0
        self.level = 0
        self._level_since = 0

    def run(self, budget: Budget, log: Callable[[str], None]) -> None:
        """Train until ``budget`` has been spent in all, saving now and then."""
        stream = SceneStream(
            self.tokenizer.to_str(),
            self.preset.batch_tokens,
            self.preset.seed * 1_000_003 + self.num_steps,
            full_share=1.0 if self.causal_only else Mix.full_share,
        )
        batches = DataLoader(stream, batch_size=None, num_workers=self.preset.num_workers)
        started = self._clock() - self.elapsed_s
        logged = saved = self.elapsed_s
        for batch, name in batches:
            share = budget.share(self.elapsed_s, self.num_tokens)
            if share >= 1:
                break
            self._step(batch, name, rate_factor(share, self.num_steps))
            self._promote(share)
            stream.level.fill_(self.level)
            stream.random_share.fill_(random_share(share))
            self.elapsed_s = self._clock() - started
            if self.elapsed_s - logged >= LOG_EVERY_S:
                logged = self.elapsed_s
                log(self.line(share))
            if self.elapsed_s - saved >= SAVE_EVERY_S:
                saved = self.elapsed_s
                self.save()
        self.save()

    def _step(self, batch: Batch, name: str, factor: float) -> None:
        batch = batch.to(self.device)
        logits = self.network(batch, torch.bfloat16)
        loss = F.cross_entropy(logits, batch.labels)
        loss.backward()
        self.optimizer.step(factor)
        self.num_steps += 1
        self.num_tokens += batch.num_tokens
        right = exact_share(logits.detach(), batch)
        self._note(name, right)
        if name != "random":
            self._note("loss", loss.item())

    def _note(self, name: str, value: float) -> None:
        self.figures[name] = SMOOTHING * self.figures[name] + (1 - SMOOTHING) * value

    def _promote(self, share: float) -> None:
        """To the next level when this one is mastered in every mode, or when time demands it."""
        self._level_since += 1
        modes = ("full",) if self.causal_only else ("block", "full")
        mastered = min(self.figures[mode] for mode in modes) > PROMOTE_AT
        due = int((share - PROMOTE_FROM) / PROMOTE_EVERY)
        if self.level < len(LEVELS) - 1 and (
            (mastered and self._level_since > 60) or due > self.level
        ):
            self.level += 1
            self._level_since = 0

    def line(self, share: float) -> str:
        """One line for the log, when ``share`` of the budget is spent."""
        figures = " ".join(f"{name} {value:.3f}" for name, value in self.figures.items())
        return (
            f"{share:.1%}  {self.elapsed_s:.0f} s  step {self.num_steps}  "
            f"{self.num_tokens / 1e6:.2f}M tokens  level {self.level}  {figures}"
        )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "size": asdict(self.preset.size),
            "causal_only": self.causal_only,
            "seed": self.preset.seed,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state(),
            "figures": self.figures,
            "progress": [self.elapsed_s, self.num_steps, self.num_tokens, self.level],
        }
        part = self.folder / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.folder / "checkpoint.pt")

    def load(self) -> bool:
        """Go on from the checkpoint; whether there was one that fits."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return False
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self._check_same(path, state)
        self.network.load_state_dict(state["network"])
        self.optimizer.load(state["optimizer"])
        self.figures = dict(state["figures"])
        self.elapsed_s, self.num_steps, self.num_tokens, self.level = state["progress"]
        return True

    def _check_same(self, path: Path, state: dict[str, Any]) -> None:
        """Raises :class:`InvalidInput` for the checkpoint of another training."""
        was_causal, seed = state.get("causal_only", False), state.get("seed", 0)
        if state["size"] != asdict(self.preset.size):
            problem = "holds a model of other sizes"
        elif was_causal != self.causal_only:
            problem = f"was trained {'causally only' if was_causal else 'in both modes'}"
        elif seed != self.preset.seed:
            problem = f"was trained with the seed {seed}"
        else:
            return
        raise InvalidInput(
            f"{path} {problem}; train in the same way, remove it, or train without resuming"
        )


def exact_share(logits: torch.Tensor, batch: Batch) -> float:
    """Share of questions of which every reply token is the likeliest: logits [N, vocab]."""
    wrong = batch.label_questions[logits.argmax(-1) != batch.labels]
    num_questions = int(batch.label_questions[-1]) + 1
    return 1 - len(torch.unique(wrong)) / num_questions


def _tokenizer(preset: Preset, path: Path) -> Tokenizer:
    """The tokenizer of an earlier run, or a new one."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    rng = random.Random(preset.seed)

    def texts() -> Iterator[str]:
        for _ in range(preset.vocab_scenes):
            scene = make_scene(rng, rng.randint(2, 20))
            yield from scene.blocks
            for question in make_questions(rng, scene, 20):
                yield from (question.event, question.reply)

    tokenizer = train_tokenizer(texts(), preset.size.vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def train_bundled(
    preset: str,
    out: Path,
    minutes: float | None = None,
    tokens: int | None = None,
    resume: bool = True,
    causal_only: bool = False,
    seed: int = 0,
    measure: bool = True,
    work: Path | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Train, measure and export the bundled model.

    ``out`` gets the Hugging Face folder; ``work`` (by default a folder beside it, named
    ``…-training``) the checkpoints, from which an interrupted run goes on if ``resume``.
    ``minutes`` of training replace the preset's, or ``tokens`` do; to ``measure`` it and write its
    card takes a few minutes more. ``causal_only`` leaves the block mask out: a stand-in for stock
    models, which never saw one. ``seed`` decides on weights, tokenizer and scenes.
    Raises :class:`InvalidInput` for a preset that does not exist or whose device is missing, and
    for a checkpoint of another training.
    """
    if preset not in PRESETS:
        raise InvalidInput(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    chosen = replace(PRESETS[preset], seed=seed)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("preset 'gpu' needs CUDA, which torch does not find; use 'cpu'")
    folder = work or out.with_name(f"{out.name}-training")
    folder.mkdir(parents=True, exist_ok=True)
    training = Training(chosen, folder, clock=time.monotonic, causal_only=causal_only)
    if resume and training.load():
        log(f"resumed at {training.elapsed_s:.0f} s")
    training.run(Budget(minutes if minutes or tokens else chosen.minutes, tokens), log)
    export(training.network, training.tokenizer, out)
    if measure:
        log("measuring")
        (out / "README.md").write_text(_card(training, preset, out, log), "utf-8")


def _card(training: Training, preset: str, out: Path, log: Callable[[str], None]) -> str:
    # What is measured is what was written, rounded to fp16.
    network, tokenizer = load_exported(out)
    return model_card(
        network,
        evaluate_all(network, plain_copy(tokenizer), log=log),
        preset=preset,
        minutes=training.elapsed_s / 60,
        num_steps=training.num_steps,
        num_tokens=training.num_tokens,
        causal_only=training.causal_only,
        seed=training.preset.seed,
    )

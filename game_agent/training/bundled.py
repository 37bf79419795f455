"""Training of the bundled model, from nothing or from an earlier result, to a checkpoint folder."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from game_agent.errors import InvalidInput
from game_agent.stopping import stop_asked
from game_agent.training.batches import Batch
from game_agent.training.card import model_card
from game_agent.training.curriculum import LEVELS, Mix
from game_agent.training.evaluate import evaluate_all
from game_agent.training.export import export, load_exported
from game_agent.training.figures import Figures, exact_share
from game_agent.training.network import Network
from game_agent.training.optimizer import MuonAdam
from game_agent.training.presets import PRESETS, Preset
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.schedule import Budget, random_share, rate_factor
from game_agent.training.seeding import seed_induction
from game_agent.training.stream import SceneStream
from game_agent.training.tokens import plain_copy, train_tokenizer
from game_agent.writing import writes

LOG_EVERY_S = 10.0
SAVE_EVERY_S = 120.0
FETCH_EVERY = 16  # steps of a GPU
PROMOTE_AT = 0.65  # of replies right, to go to the next level
# What counts as spent already where the weights of an earlier training are taken over.
START_SHARE = 0.8
# Shares of the time: a level is due each PROMOTE_EVERY after PROMOTE_FROM, mastered or not.
PROMOTE_FROM, PROMOTE_EVERY = 0.3, 0.09

say = partial(print, flush=True)  # at once, where it is read from a file as well


class Training:
    """A network in training: its optimizer, its place in the curriculum, its running figures.

    With ``causal_only`` it never sees a block encoded alone, as stock models have not. It begins
    with nothing, or with what :func:`export` wrote to the folder ``start``.
    """

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        *,
        clock: Callable[[], float],
        causal_only: bool = False,
        start: Path | None = None,
    ) -> None:
        self.preset = preset
        self.causal_only = causal_only
        self.folder = folder
        self._clock = clock
        torch.manual_seed(preset.seed)
        self.device = torch.device(preset.device)
        network, self.tokenizer = _beginning(preset, folder, start)
        self.begun = START_SHARE if start else 0.0
        self.network = network.to(self.device)
        self.optimizer = MuonAdam(self.network, preset.muon_rate, preset.adam_rate)
        self.figures = Figures(FETCH_EVERY if self.on_gpu else 1)
        self.elapsed_s = 0.0
        self.num_steps = 0
        self.num_tokens = 0
        self.level = len(LEVELS) - 1 if start else 0
        self._level_since = 0

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def run(self, budget: Budget, log: Callable[[str], None]) -> None:
        """Train until ``budget`` has been spent in all, saving now and then.

        Ctrl-C and SIGTERM stop it after a step: it saves, and raises ``KeyboardInterrupt``.
        Raises :class:`TrainingError` where it cannot go on.
        """
        stream = self._stream(self._share(budget))
        started = self._clock() - self.elapsed_s
        logged = saved = self.elapsed_s
        with stop_asked() as is_stopped:
            for batch, name in stream.batches(self.preset.num_workers, pinned=self.on_gpu):
                share = self._share(budget)
                if share >= 1 or is_stopped():
                    break
                self._step(batch, name, rate_factor(share, self.num_steps))
                self._promote(share)
                stream.set(self.level, random_share(share))
                self.elapsed_s = self._clock() - started
                if self.elapsed_s - logged >= LOG_EVERY_S:
                    logged = self.elapsed_s
                    log(self.line(share))
                if self.elapsed_s - saved >= SAVE_EVERY_S:
                    saved = self.elapsed_s
                    self.save()
            self.save()
            if is_stopped():
                log(f"stopped after step {self.num_steps}; the same command goes on from here")
                raise KeyboardInterrupt

    def _share(self, budget: Budget) -> float:
        """How much of the whole training is done, that of the weights it began with included."""
        return self.begun + (1 - self.begun) * budget.share(self.elapsed_s, self.num_tokens)

    def _stream(self, share: float) -> SceneStream:
        """Scenes for the level that is reached, when ``share`` of the budget is spent."""
        mix = Mix(
            level=self.level,
            random_share=random_share(share),
            full_share=1.0 if self.causal_only else Mix.full_share,
            batch_tokens=self.preset.batch_tokens,
            grouped=self.on_gpu,
        )
        return SceneStream(
            self.tokenizer.to_str(), self.preset.seed * 1_000_003 + self.num_steps, mix
        )

    def _step(self, batch: Batch, name: str, factor: float) -> None:
        batch = batch.to(self.device)
        logits = self.network(batch, torch.bfloat16)
        loss = F.cross_entropy(logits, batch.labels)
        loss.backward()
        self.optimizer.step(factor)
        self.num_steps += 1
        self.num_tokens += batch.num_tokens
        self.figures.note(name, loss, exact_share(logits.detach(), batch))

    def _promote(self, share: float) -> None:
        """To the next level when this one is mastered in every mode, or when time demands it."""
        self._level_since += 1
        modes = ("full",) if self.causal_only else ("block", "full")
        mastered = min(self.figures.values[mode] for mode in modes) > PROMOTE_AT
        due = int((share - PROMOTE_FROM) / PROMOTE_EVERY)
        if self.level < len(LEVELS) - 1 and (
            (mastered and self._level_since > 60) or due > self.level
        ):
            self.level += 1
            self._level_since = 0

    def line(self, share: float) -> str:
        """One line for the log, when ``share`` of the budget is spent."""
        return (
            f"{share:.1%}  {self.elapsed_s:.0f} s  step {self.num_steps}  "
            f"{self.num_tokens / 1e6:.2f}M tokens  level {self.level}  {self.figures}"
        )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        self.figures.fetch()
        state = {
            "size": asdict(self.preset.size),
            "causal_only": self.causal_only,
            "seed": self.preset.seed,
            "begun": self.begun,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state(),
            "figures": self.figures.values,
            "progress": [self.elapsed_s, self.num_steps, self.num_tokens, self.level],
        }
        part = self.folder / "checkpoint.part"
        with writes(part):
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
        self.figures.load(state["figures"])
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
        elif state.get("begun", 0.0) != self.begun:
            problem = f"began with {'nothing' if self.begun else 'the weights of another model'}"
        else:
            return
        raise InvalidInput(
            f"{path} {problem}; train in the same way, remove it, or train without resuming"
        )


def _beginning(preset: Preset, folder: Path, start: Path | None) -> tuple[Network, Tokenizer]:
    """Weights and tokenizer before the first step. Raises :class:`InvalidInput` for a ``start`` of
    other sizes."""
    if start is None:
        tokenizer = _tokenizer(preset, folder / "tokenizer.json")
        network = Network(preset.size)
        seed_induction(network, torch.Generator().manual_seed(preset.seed))
        return network, tokenizer
    network, tokenizer = _exported(start)
    if network.size != preset.size:
        raise InvalidInput(f"{start} holds a model of other sizes than the preset's")
    # A training that goes on keeps the tokenizer that it began with.
    path = folder / "tokenizer.json"
    if path.exists():
        return network, Tokenizer.from_file(str(path))
    _save(tokenizer, path)
    return network, tokenizer


def _exported(folder: Path) -> tuple[Network, Tokenizer]:
    try:
        return load_exported(folder)
    except (OSError, KeyError, ValueError) as error:
        raise InvalidInput(
            f"{folder} is no folder that train-bundled has written: {error!r}", where="start"
        ) from None


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
    _save(tokenizer, path)
    return tokenizer


def _save(tokenizer: Tokenizer, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    tokenizer.save(str(part))
    part.replace(path)


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
    start: Path | None = None,
    log: Callable[[str], None] = say,
) -> None:
    """Train, measure and export the bundled model.

    ``out`` gets the Hugging Face folder; ``work`` (by default a folder beside it, named
    ``…-training``) the checkpoints, from which an interrupted run goes on if ``resume``.
    ``minutes`` of training replace the preset's, or ``tokens`` do; to ``measure`` it and write its
    card takes a few minutes more. ``causal_only`` leaves the block mask out: a stand-in for stock
    models, which never saw one. ``seed`` decides on weights, tokenizer and scenes.
    Raises :class:`InvalidInput` for a preset that does not exist or whose device is missing, and
    for a checkpoint of another training; else as :meth:`Training.run`.
    """
    if preset not in PRESETS:
        raise InvalidInput(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    chosen = replace(PRESETS[preset], seed=seed)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("preset 'gpu' needs CUDA, which torch does not find; use 'cpu'")
    if min(1.0 if minutes is None else minutes, 1 if tokens is None else tokens) <= 0:
        raise InvalidInput("minutes and tokens of training must be more than 0")
    if start is not None:
        _exported(start)  # before anything is removed
    folder = work or out.with_name(f"{out.name}-training")
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    if not (folder / "checkpoint.pt").exists():
        # It may be of another seed, or of other scenes.
        (folder / "tokenizer.json").unlink(missing_ok=True)
        if start is None:
            log("making the tokenizer, which takes a minute")
    training = Training(chosen, folder, clock=time.monotonic, causal_only=causal_only, start=start)
    millions = sum(weight.numel() for weight in training.network.parameters()) / 1e6
    log(f"{millions:.1f} million weights on {training.device}")
    if resume and training.load():
        log(f"resumed at {training.elapsed_s:.0f} s")
    training.run(Budget(minutes if minutes or tokens else chosen.minutes, tokens), log)
    # A card that is there tells of other weights.
    (out / "README.md").unlink(missing_ok=True)
    with writes(out):
        export(training.network, training.tokenizer, out)
    if measure:
        log("measuring")
        (out / "README.md").write_text(_card(training, preset, out, log), "utf-8")


def _card(training: Training, preset: str, out: Path, log: Callable[[str], None]) -> str:
    # What is measured is what was written, rounded to fp16.
    network, tokenizer = load_exported(out)
    network = network.to(training.device)
    return model_card(
        network,
        evaluate_all(network, plain_copy(tokenizer), log=log),
        preset=preset,
        minutes=training.elapsed_s / 60,
        num_steps=training.num_steps,
        num_tokens=training.num_tokens,
        causal_only=training.causal_only,
        seed=training.preset.seed,
        has_start=training.begun > 0,
    )

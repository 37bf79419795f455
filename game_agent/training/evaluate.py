"""Accuracy of a network, by skill and kind of question: whole replies, decoded greedily.

``python -m game_agent.training.evaluate FOLDER`` measures an exported model as its card does.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from game_agent.intervals import Interval, interval
from game_agent.training.batches import Sample, collate, encode_scene
from game_agent.training.export import load_exported
from game_agent.training.network import Network
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.tokens import plain_copy


class Label(NamedTuple):
    """What a question took."""

    skill: str
    kind: str


class Outcome(NamedTuple):
    """One question put to the network; ``reply``: the token ids that were right."""

    label: Label
    reply: tuple[int, ...]
    right: bool


@dataclass(frozen=True)
class Score:
    """What became of each question, scene by scene."""

    scenes: tuple[tuple[Outcome, ...], ...] = ()

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for scene in self.scenes for outcome in scene]

    @property
    def num_asked(self) -> int:
        return sum(map(len, self.scenes))

    @property
    def num_distinct(self) -> int:
        """How many different replies were asked for, those of another scene being others."""
        return sum(len({outcome.reply for outcome in scene}) for scene in self.scenes)

    @property
    def accuracy(self) -> float:
        """Share of right replies, 0 if nothing was asked."""
        return sum(outcome.right for outcome in self.outcomes) / max(1, self.num_asked)

    @property
    def interval(self) -> Interval | None:
        """Of the accuracy, whole scenes being drawn; None if nothing was asked."""
        if not self.num_asked:
            return None
        groups = [index for index, scene in enumerate(self.scenes) for _ in scene]
        return interval([float(outcome.right) for outcome in self.outcomes], groups)

    def part(self, *, skill: str | None = None, kind: str | None = None) -> Score:
        """The score on questions of a skill, a kind, or both."""
        return Score(
            tuple(
                tuple(
                    outcome
                    for outcome in scene
                    if skill in (None, outcome.label.skill) and kind in (None, outcome.label.kind)
                )
                for scene in self.scenes
            )
        )


@torch.inference_mode()
def score_samples(
    network: Network,
    samples: list[Sample],
    *,
    full: bool,
    dtype: torch.dtype = torch.float32,
    spread: float = 0.0,
) -> Score:
    """Every reply is right if each of its tokens is the likeliest after the right ones before it,
    which is when greedy decoding would write it. Each sample counts as a scene."""
    device = network.lm_head.weight.device
    batch = collate(random.Random(0), samples, full=full, spread=spread)
    logits = network(batch.to(device), dtype).cpu()
    wrong = set(batch.label_questions[logits.argmax(-1) != batch.labels].tolist())
    numbers = itertools.count()
    return Score(
        tuple(
            tuple(
                Outcome(Label(*label), tuple(reply), next(numbers) not in wrong)
                for label, (_, reply) in zip(sample.labels, sample.questions, strict=True)
            )
            for sample in samples
        )
    )


def evaluate(
    network: Network,
    tokenizer: Tokenizer,
    *,
    num_blocks: int,
    full: bool,
    num_scenes: int,
    num_questions: int = 16,
    held_out_wording: bool = False,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Score:
    """Score on scenes of the test split: names that training never saw.

    ``tokenizer`` is one without special tokens. With ``held_out_wording`` the questions are put in
    words that training never used either.
    """
    rng = random.Random(seed)
    scenes: list[tuple[Outcome, ...]] = []
    for _ in range(num_scenes):
        scene = make_scene(rng, num_blocks, "test")
        questions = make_questions(rng, scene, num_questions, held_out_wording=held_out_wording)
        sample = encode_scene(tokenizer, scene.blocks, questions)
        scenes += score_samples(network, [sample], full=full, dtype=dtype).scenes
    return Score(tuple(scenes))


@dataclass(frozen=True)
class Setting:
    """One column of the table: scenes of a size, in a mode, asked in usual or held-out words."""

    num_blocks: int
    full: bool
    held_out_wording: bool = False

    @property
    def is_usual(self) -> bool:
        """Of the size that questions of each kind are shown for."""
        return self.num_blocks == 8

    @property
    def title(self) -> str:
        return f"{self.num_blocks} {'full' if self.full else 'block'}{self._words}"

    @property
    def questions(self) -> str:
        """What names the questions, which are the same in both modes."""
        return f"{self.num_blocks}{self._words}"

    @property
    def _words(self) -> str:
        return ", other words" if self.held_out_wording else ""


SIZES = (4, 8, 16, 32, 100, 300)
MIN_SCENES = 10  # of fewer, intervals are too narrow
SETTINGS = (
    *(Setting(size, full) for full in (False, True) for size in SIZES),
    Setting(8, False, held_out_wording=True),
    Setting(8, True, held_out_wording=True),
)


def evaluate_all(
    network: Network,
    tokenizer: Tokenizer,
    *,
    num_blocks: int = 800,
    min_scenes: int = MIN_SCENES,
    settings: tuple[Setting, ...] = SETTINGS,
    log: Callable[[str], None] = print,
) -> dict[Setting, Score]:
    """Scores in all settings, each on scenes of about ``num_blocks`` blocks in all, but on no
    fewer than ``min_scenes``.
    """
    scores = {}
    for setting in settings:
        scores[setting] = evaluate(
            network,
            tokenizer,
            num_blocks=setting.num_blocks,
            full=setting.full,
            held_out_wording=setting.held_out_wording,
            num_scenes=max(min_scenes, num_blocks // setting.num_blocks),
            num_questions=16 if setting.num_blocks < 100 else 64,
        )
        log(_line(setting, scores[setting]))
    return scores


def _line(setting: Setting, score: Score) -> str:
    found = score.interval
    return (
        f"{setting.title}: {found.text() if found else '–'} % of {score.num_asked} replies right, "
        f"{score.num_distinct} of them different"
    )


if __name__ == "__main__":
    exported, exported_tokenizer = load_exported(Path(sys.argv[1]))
    evaluate_all(exported, plain_copy(exported_tokenizer))

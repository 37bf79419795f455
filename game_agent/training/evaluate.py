"""Accuracy of a network, by skill and kind of question: whole replies, decoded greedily.

``python -m game_agent.training.evaluate FOLDER`` measures an exported model as its card does.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from game_agent.training.batches import Sample, collate, encode_scene
from game_agent.training.export import load_exported
from game_agent.training.network import Network
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.tokens import plain_copy


class Label(NamedTuple):
    """What a question took."""

    skill: str
    kind: str


@dataclass
class Score:
    """Questions asked and answered exactly, by skill and kind."""

    asked: Counter[Label] = field(default_factory=Counter)
    right: Counter[Label] = field(default_factory=Counter)

    @property
    def accuracy(self) -> float:
        """Share of right replies over all kinds, 0 if nothing was asked."""
        return self.right.total() / max(1, self.asked.total())

    def part(self, *, skill: str | None = None, kind: str | None = None) -> Score:
        """The score on questions of a skill, a kind, or both."""
        part = Score()
        for label, asked in self.asked.items():
            if skill in (None, label.skill) and kind in (None, label.kind):
                part.asked[label] = asked
                part.right[label] = self.right[label]
        return part

    def add(self, other: Score) -> None:
        self.asked += other.asked
        # Not +=, which would drop kinds without a right reply.
        self.right.update(other.right)


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
    which is when greedy decoding would write it."""
    device = network.lm_head.weight.device
    batch = collate(random.Random(0), samples, full=full, spread=spread)
    logits = network(batch.to(device), dtype).cpu()
    wrong = batch.label_questions[logits.argmax(-1) != batch.labels]
    labels = [Label(*label) for sample in samples for label in sample.labels]
    failed = Counter(labels[i] for i in set(wrong.tolist()))
    asked = Counter(labels)
    return Score(asked, asked - failed)


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
    score = Score()
    for _ in range(num_scenes):
        scene = make_scene(rng, num_blocks, "test")
        questions = make_questions(rng, scene, num_questions, held_out_wording=held_out_wording)
        sample = encode_scene(tokenizer, scene.blocks, questions)
        score.add(score_samples(network, [sample], full=full, dtype=dtype))
    return score


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
        words = ", other words" if self.held_out_wording else ""
        return f"{self.num_blocks} {'full' if self.full else 'block'}{words}"


SIZES = (4, 8, 16, 32, 100, 300)
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
    settings: tuple[Setting, ...] = SETTINGS,
    log: Callable[[str], None] = print,
) -> dict[Setting, Score]:
    """Scores in all settings, each on scenes of about ``num_blocks`` blocks in all."""
    scores = {}
    for setting in settings:
        scores[setting] = evaluate(
            network,
            tokenizer,
            num_blocks=setting.num_blocks,
            full=setting.full,
            held_out_wording=setting.held_out_wording,
            num_scenes=max(3, num_blocks // setting.num_blocks),
            num_questions=16 if setting.num_blocks < 100 else 64,
        )
        score = scores[setting]
        log(f"{setting.title}: {score.accuracy:.1%} of {score.asked.total()} replies right")
    return scores


if __name__ == "__main__":
    exported, exported_tokenizer = load_exported(Path(sys.argv[1]))
    evaluate_all(exported, plain_copy(exported_tokenizer))

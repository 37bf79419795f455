"""From small scenes to large ones: what batches are made of at each moment of training."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tokenizers import Tokenizer

from game_agent.training.asking import make_questions
from game_agent.training.batches import Batch, Sample, collate, encode_scene, random_sample
from game_agent.training.names import Split
from game_agent.training.scenes import make_scene


@dataclass(frozen=True)
class Level:
    """A step of the curriculum: how many blocks a scene has, and how many questions on it.

    share: of the batches, beside the other levels reached; the highest one gets it twice
    """

    fewest_blocks: int
    most_blocks: int
    num_questions: int
    share: float


LEVELS = (
    Level(2, 3, 16, 0.7),
    Level(2, 5, 20, 1.2),
    Level(4, 9, 28, 2.0),
    Level(8, 16, 32, 2.0),
    Level(14, 28, 40, 2.0),
    Level(24, 44, 48, 1.5),
    Level(40, 100, 56, 0.8),
    Level(100, 320, 64, 0.05),
)
MAX_FULL_LEVEL = 5  # causal attention over longer contexts would take most of the time


def draw_level(rng: random.Random, top: int) -> Level:
    """One of the levels up to ``top``."""
    shares = [level.share for level in LEVELS[: top + 1]]
    shares[-1] *= 2
    return rng.choices(LEVELS[: top + 1], shares)[0]


@dataclass(frozen=True)
class Mix:
    """What batches are made of at a moment of training.

    random_share: batches of random tokens; full_share: batches in full mode
    grouped:      as for ``collate``
    """

    level: int = 0
    random_share: float = 0.0
    full_share: float = 0.4
    spread: float = 0.5
    batch_tokens: int = 8192
    grouped: bool = False


def make_batch(
    rng: random.Random, tokenizer: Tokenizer, mix: Mix, split: Split = "train"
) -> tuple[Batch, str]:
    """A batch of about ``mix.batch_tokens``, and its name for the log: random, full or block."""
    full = rng.random() < mix.full_share
    level = draw_level(rng, min(mix.level, MAX_FULL_LEVEL if full else len(LEVELS) - 1))
    is_random = rng.random() < mix.random_share
    samples: list[Sample] = []
    num_tokens = 0
    while num_tokens < mix.batch_tokens * 0.85:
        num_blocks = rng.randint(level.fewest_blocks, level.most_blocks)
        if is_random:
            sample = random_sample(rng, num_blocks, level.num_questions, tokenizer.get_vocab_size())
        else:
            scene = make_scene(rng, num_blocks, split)
            questions = make_questions(rng, scene, level.num_questions)
            sample = encode_scene(tokenizer, scene.blocks, questions)
        samples.append(sample)
        num_tokens += sum(map(len, sample.blocks))
        num_tokens += sum(len(event) + len(reply) for event, reply in sample.questions)
    batch = collate(rng, samples, full=full, spread=mix.spread, grouped=mix.grouped)
    return batch, "random" if is_random else "full" if full else "block"

"""What 8-bit weights and bfloat16 keys and values cost in quality, and save in time, on a CPU.

    python bench/int8.py [--model FOLDER] [--threads N] [--repeats N]

Quality: scenes of the test split with their questions and right replies; at every token of a reply
the next-token distribution is compared with the float32 model's (KL divergence in millinats, and
whether the likeliest token is the same); *right* counts replies that greedy decoding would give
word for word. Speed: ms per decoded token over long contexts and ms to the first token, the
variants taking turns. ``--model`` takes a folder of the bundled model's format.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder
from game_agent.training.batches import Sample, encode_scene
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.tokens import plain_copy
from game_agent_kernels import set_num_threads

SCENE_BLOCKS = 24
QUESTIONS = 16
CONTEXT_TOKENS = 4096
BLOCK_TOKENS = 128
DECODE_TOKENS = 48
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "int8 weights": {"weights": "int8"},
    "bfloat16 KV": {"kv_dtype": "bfloat16"},
    "both": {"weights": "int8", "kv_dtype": "bfloat16"},
}


@dataclass
class Figures:
    """One variant's measurements; lists have one entry per reply token, reply, or repeat."""

    kl: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)


def reply_logits(engine: Engine, sample: Sample) -> list[tuple[Tensor, Tensor]]:
    """(next-token logits [reply, vocab], right tokens [reply]) of each question."""
    out = []
    for event, reply in sample.questions:
        logits = engine.logits(sample.blocks, [*event, *reply[:-1]])
        out.append((logits[len(event) - 1 :], torch.tensor(reply)))
    return out


def compare(engines: dict[str, Engine], samples: Sequence[Sample]) -> dict[str, Figures]:
    """Quality of every variant beside the first."""
    figures = {name: Figures() for name in engines}
    for i, sample in enumerate(samples):
        print(f"  quality: scene {i + 1} of {len(samples)}", file=sys.stderr)
        answers = {name: reply_logits(engine, sample) for name, engine in engines.items()}
        exact = next(iter(answers.values()))
        for name, replies in answers.items():
            for (logits, labels), (wanted, _) in zip(replies, exact, strict=True):
                figures[name].kl += divergence(wanted, logits).tolist()
                figures[name].same += (logits.argmax(-1) == wanted.argmax(-1)).tolist()
                figures[name].right.append(bool((logits.argmax(-1) == labels).all()))
    return figures


def divergence(wanted: Tensor, got: Tensor) -> Tensor:
    """KL(wanted ‖ got) in nats of logits [rows, vocab] -> [rows]."""
    p, q = F.log_softmax(wanted.double(), -1), F.log_softmax(got.double(), -1)
    return (p.exp() * (p - q)).sum(-1)


def measure_speed(engines: dict[str, Engine], figures: dict[str, Figures], repeats: int) -> None:
    """Time a reply over a cached context, variant after variant in every round."""
    rng = np.random.default_rng(0)
    vocab = next(iter(engines.values())).runner.vocab_size

    def tokens(count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return rng.integers(5, vocab, count).astype(np.int32)

    blocks = tuple(Block(tokens(BLOCK_TOKENS)) for _ in range(CONTEXT_TOKENS // BLOCK_TOKENS))
    event = tokens(50)
    for turn in range(repeats + 1):
        print(f"  speed: round {turn} of {repeats}", file=sys.stderr)
        for name, engine in engines.items():
            usage = engine.run([Request(blocks, event, max_tokens=DECODE_TOKENS)])[0].usage
            if turn:
                per_token = (usage.total_ms - usage.ttft_ms) / (DECODE_TOKENS - 1)
                figures[name].decode_ms.append(per_token)
                figures[name].ttft_ms.append(usage.ttft_ms)


def table(figures: dict[str, Figures], title: str) -> Table:
    out = Table(title=title)
    for column in ("variant", "KL mean", "KL max", "same token", "right", "ms/token", "TTFT ms"):
        out.add_column(column, justify="left" if column == "variant" else "right")
    for name, found in figures.items():
        out.add_row(
            name,
            f"{1e3 * mean(found.kl):.3f}",
            f"{1e3 * max(found.kl):.2f}",
            f"{100 * mean(found.same):.2f} %",
            f"{sum(found.right)} of {len(found.right)}",
            f"{median(found.decode_ms):.2f}",
            f"{median(found.ttft_ms):.1f}",
        )
    return out


def make_samples(engine: Engine, count: int) -> list[Sample]:
    tokenizer = plain_copy(engine.runner.tokenizer.backend)
    rng = random.Random(1)
    samples = []
    for _ in range(count):
        scene = make_scene(rng, SCENE_BLOCKS, "test")
        questions = make_questions(rng, scene, QUESTIONS)
        samples.append(encode_scene(tokenizer, scene.blocks, questions))
    return samples


def main(
    model: Path = bundled_folder(),  # noqa: B008
    threads: int = 2,
    scenes: int = 10,
    repeats: int = 7,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    set_num_threads(threads)
    engines = {}
    for name, settings in VARIANTS.items():
        runner = load_runner(model, kv_memory_bytes=2**28, device="cpu", **settings)
        engines[name] = Engine(runner)
    figures = compare(engines, make_samples(engines["float32"], scenes))
    for engine in engines.values():
        # Replies to random tokens, all of one length.
        engine.runner.stop_token_ids = frozenset()
    measure_speed(engines, figures, repeats)
    kernels = engines["float32"].runner.kernels.name
    for engine in engines.values():
        engine.close()
    title = (
        f"{model.name}, kernels {kernels}, {threads} threads, {CONTEXT_TOKENS} tokens of context; "
        "KL in millinats"
    )
    Console(width=100).print(table(figures, title))


if __name__ == "__main__":
    typer.run(main)

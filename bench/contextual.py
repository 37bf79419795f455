"""Contextual mode against full mode: how far its next tokens are from full mode's, and TTFT.

    python bench/contextual.py --model FOLDER --out docs/results/contextual.md
    python bench/contextual.py --ttft [--model FOLDER] [--out docs/results/contextual_ttft.md]

FOLDER should be a model that never saw blocks encoded alone. One without a download:

    game-agent train-bundled --causal-only --minutes 25 --out FOLDER

Scenes of the test split are asked about, then some of their blocks are replaced, one prompt after
another, and they are asked about again, with no refresh. At each token of the right replies the
distribution of the next one is compared with full mode's. With --out a plot is drawn beside it.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from game_agent.blocks.block import Block
from game_agent.config import EngineSettings
from game_agent.engine import Engine, Request
from game_agent.engine.contextual import ContextualCache
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder
from game_agent.training.batches import Sample, encode_scene
from game_agent.training.export import load_exported
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.tokens import plain_copy

REPAIRS = (0, 8, 16, 32, 64, 128)
EDITS = (1, 4, 16)
SHARES = (0.05, 0.15, 0.3, 0.6)
TTFT_REPAIRS = (0, 32, 128)


@dataclass
class Distance:
    """Over many tokens: KL(full ‖ other) in nats, and how often the likeliest token is the same."""

    kl: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)

    def add(self, full: Tensor, other: Tensor) -> None:
        """Logits [n, vocab] of the same tokens."""
        p, q = full.double().log_softmax(-1), other.double().log_softmax(-1)
        self.kl += (p.exp() * (p - q)).sum(-1).clamp_min(0).tolist()
        self.same += (full.argmax(-1) == other.argmax(-1)).double().tolist()

    def cells(self) -> str:
        return f"{statistics.fmean(self.kl):.4f} | {100 * statistics.fmean(self.same):.1f} %"


class Fidelity:
    """The same edited scenes in every way of reading them."""

    def __init__(self, model: Path, num_scenes: int, num_blocks: int) -> None:
        self.engine = Engine(
            load_runner(model, kv_memory_bytes=2**28), EngineSettings(refresh_when_idle=False)
        )
        tokenizer = plain_copy(load_exported(model)[1])
        rng = random.Random(7)

        def sample() -> Sample:
            scene = make_scene(rng, num_blocks, "test")
            return encode_scene(tokenizer, scene.blocks, make_questions(rng, scene, 6))

        self.samples = [sample() for _ in range(num_scenes)]
        self.spare = [block for _ in range(num_scenes) for block in sample().blocks[1:]]

    def distances(self, num_edits: int, blocks_per_edit: float) -> dict[str, Distance]:
        """By way of reading: ``block``, or k of contextual mode."""
        out: dict[str, Distance] = {}
        for number, sample in enumerate(self.samples):
            count = max(1, round(blocks_per_edit * len(sample.blocks)))
            prompts = [sample.blocks]
            rng = random.Random(number)
            for _ in range(num_edits):
                prompts.append(self._edited(rng, prompts[-1], count))
            caches = {f"k = {k}": ContextualCache(k) for k in REPAIRS}
            for cache in caches.values():
                for prompt in prompts:
                    self.engine.logits(prompt, [5], "contextual", cache)
            for event, reply in sample.questions:
                ids, rows = [*event, *reply[:-1]], slice(len(event) - 1, None)
                full = self.engine.logits(prompts[-1], ids, "full")[rows]
                alone = self.engine.logits(prompts[-1], ids, "block")[rows]
                out.setdefault("block", Distance()).add(full, alone)
                for name, cache in caches.items():
                    got = self.engine.logits(prompts[-1], ids, "contextual", cache)[rows]
                    out.setdefault(name, Distance()).add(full, got)
        return out

    def _edited(self, rng: random.Random, blocks: list[list[int]], count: int) -> list[list[int]]:
        """``count`` blocks replaced by ones of other scenes; never the first, the character."""
        out = list(blocks)
        for at in rng.sample(range(1, len(out)), min(count, len(out) - 1)):
            out[at] = rng.choice(self.spare)
        return out


def fidelity(model: Path, num_scenes: int, num_blocks: int, plot: Path | None) -> Iterator[str]:
    """Lines of Markdown."""
    bench = Fidelity(model, num_scenes, num_blocks)
    by_edits = {f"{n} edits": bench.distances(n, 0.0) for n in EDITS}
    by_share = {f"{share:.0%} at once": bench.distances(1, share) for share in SHARES}
    bench.engine.close()
    num_tokens = len(by_edits["1 edits"]["block"].kl)
    prompt = statistics.fmean(sum(map(len, sample.blocks)) for sample in bench.samples)
    yield "# Contextual mode against full mode\n"
    yield (
        f"Model: {model.name}. {num_scenes} scenes of about {num_blocks} blocks ({prompt:.0f} "
        f"tokens on average), {num_tokens} tokens of right replies in each cell. KL(full ‖ mode) "
        "of the next token in nats, mean; and how often the likeliest token is full mode's. "
        "An edit replaces one block, and each is a prompt of its own without a refresh between; "
        "the last rows replace a share of the blocks at once. k: tokens computed anew where moved "
        "text begins.\n"
    )
    columns = list(by_edits["1 edits"])
    yield "| | " + " | ".join(f"{c}: KL | same" for c in columns) + " |"
    yield "|---" * (2 * len(columns) + 1) + "|"
    for name, row in {**by_edits, **by_share}.items():
        title = "1 edit" if name == "1 edits" else name
        yield f"| {title} | " + " | ".join(row[c].cells() for c in columns) + " |"
    yield "\nTo make it anew: `python bench/contextual.py --model FOLDER --out FILE.md`."
    if plot is not None:
        draw(by_edits, by_share, plot)
        yield f"\n![KL over k]({plot.name})"


def draw(
    by_edits: dict[str, dict[str, Distance]], by_share: dict[str, dict[str, Distance]], path: Path
) -> None:
    """KL over k, beside block mode."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, rows in zip(axes, (by_edits, by_share), strict=True):
        for number, (name, row) in enumerate(rows.items()):
            values = [statistics.fmean(row[f"k = {k}"].kl) for k in REPAIRS]
            places = range(len(REPAIRS))
            title = "1 edit" if name == "1 edits" else name
            axis.plot(places, values, marker="o", color=f"C{number}", label=title)
            block = statistics.fmean(row["block"].kl)
            axis.axhline(block, color=f"C{number}", linestyle=":", linewidth=1)
        axis.set_xticks(range(len(REPAIRS)), [str(k) for k in REPAIRS])
        axis.set_xlabel("k, tokens computed anew per stretch (dotted: block mode)")
        axis.legend()
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("KL(full ‖ contextual), nats")
    axes[0].set_title("edits since the last refresh")
    axes[1].set_title("share of blocks replaced at once")
    figure.savefig(path, dpi=110)


class Timing:
    """TTFT of a question after one early block changed, in every mode, in turns."""

    def __init__(self, model: Path, context: int) -> None:
        self._engine = Engine(
            load_runner(model, kv_memory_bytes=2**30), EngineSettings(refresh_when_idle=False)
        )
        self._rng = np.random.default_rng(0)
        self._blocks = [self._block() for _ in range(context // 64)]
        self._caches = {k: ContextualCache(k) for k in TTFT_REPAIRS}

    def round(self) -> dict[str, float]:
        """TTFT in ms of each mode, all on the same prompt."""
        self._blocks[1] = self._block()
        return {
            "full": self._ask(Request(self._prompt, self._event, "full", max_tokens=1)),
            "block": self._ask(Request(self._prompt, self._event, "block", max_tokens=1)),
        } | {
            f"contextual, k = {k}": self._ask(
                Request(self._prompt, self._event, "contextual", max_tokens=1, contextual=cache)
            )
            for k, cache in self._caches.items()
        }

    def close(self) -> None:
        self._engine.close()

    @property
    def _prompt(self) -> tuple[Block, ...]:
        return tuple(self._blocks)

    @property
    def _event(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return self._tokens(20)

    def _ask(self, request: Request) -> float:
        return self._engine.run([request])[0].usage.ttft_ms

    def _tokens(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return self._rng.integers(5, self._engine.runner.vocab_size, count).astype(np.int32)

    def _block(self) -> Block:
        return Block(self._tokens(64))


def ttft(model: Path, contexts: Sequence[int], num_rounds: int) -> Iterator[str]:
    """Lines of Markdown."""
    yield "# TTFT after one early block changed\n"
    yield (
        f"Model: {model.name}, {torch.get_num_threads()} threads, median of {num_rounds} rounds in "
        "which all take turns; blocks of 64 tokens, an event of 20. Milliseconds. To make it anew: "
        "`python bench/contextual.py --ttft --out FILE.md`.\n"
    )
    for number, context in enumerate(contexts):
        timing = Timing(model, context)
        timing.round()
        rounds = [timing.round() for _ in range(num_rounds)]
        timing.close()
        if not number:
            yield "| context tokens | " + " | ".join(rounds[0]) + " |"
            yield "|---" * (len(rounds[0]) + 1) + "|"
        medians = (statistics.median(r[name] for r in rounds) for name in rounds[0])
        yield f"| {context:,} | " + " | ".join(f"{m:.1f}" for m in medians) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, default=bundled_folder())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--ttft", action="store_true")
    parser.add_argument("--tokens", default="1024,4096,8192")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.ttft:
        contexts = [int(count) for count in options.tokens.split(",")]
        lines = ttft(options.model, contexts, options.rounds)
    else:
        plot = options.out.with_suffix(".png") if options.out else None
        lines = fidelity(options.model, options.scenes, options.blocks, plot)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

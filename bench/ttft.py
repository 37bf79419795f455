"""Time to first token against context length: what a change costs, beside a full prefill.

    python bench/ttft.py [--model FOLDER] [--tokens 512,8192] [--out FILE.md]

(a) nothing changed, (b) one early block changed, (c) full prefill in full mode, all through the
engine; (hf) is Hugging Face's forward with SDPA over the same prompt. The four take turns in every
round, so that ratios hold on a machine whose speed drifts; medians are shown.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.engine.request import Mode
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder

EVENT_TOKENS = 50
BLOCK_TOKENS = 128
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384)


class Prompts:
    """Random prompts of one length, and the three ways to meet them."""

    def __init__(self, engine: Engine, context: int, seed: int = 0) -> None:
        self._engine = engine
        self._rng = np.random.default_rng(seed)
        count = (context - EVENT_TOKENS) // BLOCK_TOKENS
        rest = context - EVENT_TOKENS - (count - 1) * BLOCK_TOKENS
        self.blocks = [self._block(BLOCK_TOKENS) for _ in range(count - 1)] + [self._block(rest)]
        self.event = self._tokens(EVENT_TOKENS)

    def _tokens(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        vocab = self._engine.runner.vocab_size
        return self._rng.integers(5, vocab, count).astype(np.int32)

    def _block(self, count: int) -> Block:
        return Block(self._tokens(count))

    def same(self) -> float:
        """(a): TTFT in ms with every block cached."""
        return self._ask("block", 0)

    def changed(self) -> float:
        """(b): TTFT in ms after the second block changed."""
        index = min(1, len(self.blocks) - 1)
        self.blocks[index] = self._block(len(self.blocks[index]))
        return self._ask("block", 1)

    def full(self) -> float:
        """(c): TTFT in ms of plain causal attention with the first block new."""
        self.blocks[0] = self._block(len(self.blocks[0]))
        taken = self._ask("full", len(self.blocks))
        self._ask("block", 1)  # so that (a) and (b) find it
        return taken

    def _ask(self, mode: Mode, blocks_encoded: int) -> float:
        request = Request(tuple(self.blocks), self.event, mode=mode, max_tokens=1)
        usage = self._engine.run([request])[0].usage
        # A cache that is wrong would make any time look good.
        if usage.blocks_encoded != blocks_encoded and blocks_encoded == 0:
            raise RuntimeError(f"{usage.blocks_encoded} blocks were encoded, expected none")
        return usage.ttft_ms

    @torch.inference_mode()
    def hugging_face(self, model: PreTrainedModel) -> float:
        """(hf): ms of one forward over the whole prompt, logits of the last token only."""
        ids = np.concatenate([*(block.tokens for block in self.blocks), self.event])
        inputs = torch.from_numpy(ids.astype(np.int64))[None].to(model.device)
        begun = time.perf_counter()
        model(inputs, use_cache=True, logits_to_keep=1).logits.argmax().item()
        return (time.perf_counter() - begun) * 1e3


def measure(engine: Engine, model: PreTrainedModel, context: int, rounds: int) -> list[float]:
    """Medians in ms of (a), (b), (c), (hf) over ``rounds`` rounds after one that is not counted."""
    prompts = Prompts(engine, context)
    prompts._ask("block", len(prompts.blocks))
    ways: list[Callable[[], float]] = [
        prompts.same,
        prompts.changed,
        prompts.full,
        lambda: prompts.hugging_face(model),
    ]
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 1):
        for way, taken in zip(ways, times, strict=True):
            # The short ones are repeated: their noise is the larger part.
            for _ in range(5 if way in ways[:2] else 1):
                value = way()
                if turn:
                    taken.append(value)
        print(f"  {context} tokens: round {turn} of {rounds}", file=sys.stderr)
    return [statistics.median(taken) for taken in times]


def table(rows: list[tuple[int, list[float]]]) -> str:
    """Markdown of all contexts, times in ms, and the ratios that the project is judged by."""
    lines = [
        "| context | (a) same | (b) one changed | (c) full prefill | (hf) SDPA "
        "| (b) / (a) | (c) / (b) | (c) / (hf) |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for context, (a, b, c, hf) in rows:
        lines.append(
            f"| {context:,} | {a:.1f} | {b:.1f} | {c:,.0f} | {hf:,.0f} "
            f"| {b / a:.2f} | {c / b:.1f} | {c / hf:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=str(bundled_folder()), help="checkpoint folder")
    parser.add_argument("--tokens", default=",".join(map(str, CONTEXTS)), help="context lengths")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--backend", default=None, help="kernels; default: the fastest")
    parser.add_argument("--out", default=None, help="write the table to this file as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runner = load_runner(args.model, kv_memory_bytes=2**30, backend=args.backend)
    device = runner.pool.keys.device
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=runner.pool.keys.dtype, attn_implementation="sdpa"
    ).to(device)
    engine = Engine(runner)
    contexts = [int(n) for n in args.tokens.split(",")]
    rows = [(n, measure(engine, model, n, args.rounds)) for n in contexts]
    engine.close()
    report = (
        f"Time to first token in ms, event of {EVENT_TOKENS} tokens, blocks of {BLOCK_TOKENS}; "
        f"{args.threads} threads, {device}, {runner.pool.keys.dtype}, kernels "
        f"`{runner.kernels.name}`, torch {torch.__version__}, {platform.machine()}; medians of "
        f"{args.rounds} rounds.\n\n{table(rows)}\n"
    )
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# TTFT against context\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()

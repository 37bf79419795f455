"""The same weights in llama.cpp and Hugging Face: prefix still valid, early block changed, decode.

    pip install -e .[peers]          # builds llama.cpp, minutes
    python bench/peers.py [--context 512,8192] [--out FILE.md]

Each of llama.cpp's figures is the best of its settings for that very figure: weights in float32 and
bfloat16, flash attention on and off, keys and values in float16 and float32, small and large
micro-batches. Hugging Face keeps its prefix cache. Rounds alternate between the engines.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf_export import export
from llama_cpp import GGML_TYPE_F16, GGML_TYPE_F32, Llama, llama_get_logits_ith
from rich.console import Console
from rich.progress import track
from transformers import AutoModelForCausalLM, DynamicCache

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder
from game_agent_kernels.dispatch import set_num_threads
from game_agent_kernels.native import instruction_set

EVENT_TOKENS = 50
BLOCK_TOKENS = 128
DECODE_TOKENS = 32
GAP_S = 0.05  # between two engines: the threads of one look for more work for a while
WEIGHTS = (GGMLQuantizationType.F32, GGMLQuantizationType.BF16)
# Keys and values of 32 and of 16 bits: ours and what llama.cpp calls its own.
KV_DTYPES = {"float32": GGML_TYPE_F32, "bfloat16": GGML_TYPE_F16}
SETTINGS = list(product(WEIGHTS, (False, True), (64, 512), KV_DTYPES.values()))


class Peer(Protocol):
    """Times in ms of another engine that holds a prompt."""

    def full_ms(self, tokens: list[int]) -> float:
        """Everything again, as after a change near the front."""

    def prefix_ms(self, context: int, event: list[int]) -> float:
        """The event on a cache that holds all before it."""

    def decode_ms(self, token: int) -> float:
        """Per token of a reply."""


class LlamaCpp:
    """llama.cpp with one choice of settings."""

    def __init__(
        self, path: Path, context: int, threads: int, flash: bool, ubatch: int, kv_type: int
    ) -> None:
        self._llama = Llama(
            str(path),
            n_ctx=context + EVENT_TOKENS + 4 * DECODE_TOKENS,
            n_batch=2048,
            n_ubatch=ubatch,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=flash,
            type_k=kv_type,
            type_v=kv_type,
            verbose=False,
        )

    def logits(self, tokens: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Next-token logits [vocab] after ``tokens``, from an empty cache."""
        self._llama.reset()
        self._llama.eval(tokens)
        last = llama_get_logits_ith(self._llama.ctx, -1)
        return np.ctypeslib.as_array(last, (self._llama.n_vocab(),)).copy()

    def full_ms(self, tokens: list[int]) -> float:
        self._llama.reset()
        return timed_ms(lambda: self._llama.eval(tokens))

    def prefix_ms(self, context: int, event: list[int]) -> float:
        self._llama.n_tokens = context
        return timed_ms(lambda: self._llama.eval(event))

    def decode_ms(self, token: int) -> float:
        def reply() -> None:
            for _ in range(DECODE_TOKENS):
                self._llama.eval([token])

        return timed_ms(reply) / DECODE_TOKENS


class HuggingFace:
    """transformers with SDPA attention and a cache that is cut back to the prefix."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        )
        self._cache = DynamicCache(config=self._model.config)

    @torch.inference_mode()
    def _eval(self, tokens: list[int]) -> None:
        ids = torch.tensor([tokens])
        self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)

    def full_ms(self, tokens: list[int]) -> float:
        self._cache = DynamicCache(config=self._model.config)
        return timed_ms(lambda: self._eval(tokens))

    def prefix_ms(self, context: int, event: list[int]) -> float:
        self._cache.crop(context - self._cache.get_seq_length())
        return timed_ms(lambda: self._eval(event))

    def decode_ms(self, token: int) -> float:
        def reply() -> None:
            for _ in range(DECODE_TOKENS):
                self._eval([token])

        return timed_ms(reply) / DECODE_TOKENS


def timed_ms(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3


class Ours:
    """The engine on the same prompt."""

    def __init__(self, folder: Path, context: int, kv_dtype: str, seed: int = 0) -> None:
        self.engine = Engine(load_runner(folder, kv_memory_bytes=2**30, kv_dtype=kv_dtype))
        self.engine.runner.stop_token_ids = frozenset()
        self._rng = np.random.default_rng(seed)
        self.blocks = [self._block() for _ in range(context // BLOCK_TOKENS)]
        self.event = self._tokens(EVENT_TOKENS)
        self.ask(1)

    def _tokens(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return self._rng.integers(5, self.engine.runner.vocab_size, count).astype(np.int32)

    def _block(self) -> Block:
        return Block(self._tokens(BLOCK_TOKENS))

    def ask(self, max_tokens: int) -> tuple[float, float]:
        """(TTFT, total) in ms."""
        request = Request(tuple(self.blocks), self.event, max_tokens=max_tokens)
        usage = self.engine.run([request])[0].usage
        return usage.ttft_ms, usage.total_ms

    def prefix_ms(self) -> float:
        return self.ask(1)[0]

    def changed_ms(self) -> float:
        self.blocks[1] = self._block()
        return self.ask(1)[0]

    def decode_ms(self) -> float:
        first, total = self.ask(DECODE_TOKENS + 1)
        return (total - first) / DECODE_TOKENS

    def prompt(self) -> list[int]:
        return [int(t) for block in self.blocks for t in block.tokens] + self.event.tolist()


LABELS = {
    "prefix": "TTFT, everything cached",
    "changed": "TTFT, early block changed",
    "decode": "per generated token",
}
Times = dict[str, list[float]]
Mine = dict[str, Times]  # by our keys and values


def measure(ours: dict[str, Ours], peer: Peer, context: int, rounds: int, mine: Mine) -> Times:
    """The peer's times; ours, taken in turn with them, are added to ``mine``."""
    theirs: Times = {name: [] for name in LABELS}
    tokens = ours["float32"].prompt()
    theirs["changed"].append(peer.full_ms(tokens))  # seconds long: once for each setting
    for _ in range(rounds):
        time.sleep(GAP_S)
        peer.prefix_ms(context, tokens[context:])  # warm
        theirs["prefix"].append(peer.prefix_ms(context, tokens[context:]))
        theirs["decode"].append(peer.decode_ms(7))
        for kind, engine in ours.items():
            time.sleep(GAP_S)
            engine.prefix_ms()  # warm
            mine[kind]["prefix"].append(engine.prefix_ms())
            mine[kind]["decode"].append(engine.decode_ms())
            mine[kind]["changed"].append(engine.changed_ms())
    return theirs


def compare(
    folder: Path,
    paths: dict[GGMLQuantizationType, Path],
    context: int,
    threads: int,
    rounds: int,
) -> list[str]:
    """Table rows for one context length."""
    ours = {kind: Ours(folder, context, kind) for kind in KV_DTYPES}
    mine: Mine = {kind: {name: [] for name in LABELS} for kind in ours}
    best = {kv_type: dict.fromkeys(LABELS, float("inf")) for kv_type in KV_DTYPES.values()}
    console = Console(stderr=True)
    for weights, flash, ubatch, kv_type in track(SETTINGS, f"{context} tokens", console=console):
        peer = LlamaCpp(paths[weights], context, threads, flash, ubatch, kv_type)
        for name, values in measure(ours, peer, context, rounds, mine).items():
            best[kv_type][name] = min(best[kv_type][name], statistics.median(values))
    hugging_face = measure(ours, HuggingFace(folder), context, rounds, mine)
    for each in ours.values():
        each.engine.close()
    rows = []
    for name, label in LABELS.items():
        full, half = (statistics.median(mine[kind][name]) for kind in KV_DTYPES)
        llama_full, llama_half = (best[kv_type][name] for kv_type in KV_DTYPES.values())
        llama, hf = min(llama_full, llama_half), statistics.median(hugging_face[name])
        rows.append(
            f"| {context:,} | {label} | {full:.2f} | {half:.2f} | {llama_full:,.2f} "
            f"| {llama_half:,.2f} | {full / llama_full:.3f} | {full / llama:.3f} "
            f"| {half / llama:.3f} | {hf:,.1f} |"
        )
    return rows


def check_same_model(folder: Path, path: Path, threads: int) -> None:
    """Refuse to compare times of models that do not agree."""
    runner = load_runner(folder, kv_memory_bytes=2**26)
    engine = Engine(runner)
    tokens = np.random.default_rng(1).integers(5, runner.vocab_size, 64).tolist()
    mine = engine.logits([], tokens, "full")[-1].numpy()
    engine.close()
    theirs = LlamaCpp(path, 512, threads, False, 512, GGML_TYPE_F32).logits(tokens)
    if not np.allclose(mine, theirs, atol=5e-2, rtol=5e-2):
        raise SystemExit(f"llama.cpp's logits differ by {np.abs(mine - theirs).max():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=str(bundled_folder()), help="checkpoint folder")
    parser.add_argument("--context", default="512,8192", help="context lengths")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default=None, help="write the table to this file as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_num_threads(args.threads)
    folder = Path(args.model)
    with tempfile.TemporaryDirectory() as temporary:
        paths = {kind: Path(temporary) / f"{kind.name}.gguf" for kind in WEIGHTS}
        for kind, path in paths.items():
            export(folder, path, kind)
        check_same_model(folder, paths[GGMLQuantizationType.F32], args.threads)
        rows = [
            row
            for context in args.context.split(",")
            for row in compare(folder, paths, int(context), args.threads, args.rounds)
        ]
    report = (
        f"ms, event of {EVENT_TOKENS} tokens, {args.threads} threads, the same weights; our "
        f"kernels: {instruction_set()}. Keys and values of 32 bits (kv32) or 16 (kv16: bfloat16 "
        "ours, float16 llama.cpp's). llama.cpp: its best setting for each figure.\n\n"
        "| context | | kv32 | kv16 | llama.cpp kv32 | llama.cpp kv16 | kv32 / kv32 "
        "| kv32 / best | kv16 / best | Hugging Face |\n"
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n" + "\n".join(rows) + "\n"
    )
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(
            f"# Beside llama.cpp and Hugging Face\n\n{report}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

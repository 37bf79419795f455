"""The same weights in llama.cpp: prefix still valid, early block changed, decode.

    pip install -e .[peers]          # builds llama.cpp, minutes
    python bench/llama_cpp.py [--context 8192] [--out FILE.md]

Each of llama.cpp's figures is the best of its settings (flash attention on and off, small and large
micro-batches) for that very figure, in float32 as ours. Rounds alternate between the two engines.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch
from llama_cpp import Llama
from safetensors.torch import load_file
from torch import Tensor

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.model.runner import load_runner
from game_agent.model.spec import ModelSpec, load_spec
from game_agent.runtime import bundled_folder
from game_agent_kernels.dispatch import set_num_threads

EVENT_TOKENS = 50
BLOCK_TOKENS = 128
DECODE_TOKENS = 32
SETTINGS = [(flash, ubatch) for flash in (False, True) for ubatch in (64, 512)]
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export(folder: Path, path: Path) -> None:
    """Write a llama checkpoint as GGUF in float32, without a vocabulary: token ids are enough."""
    spec = load_spec(folder)
    tensors = load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(spec.num_layers)
    writer.add_context_length(2 * spec.max_context_tokens)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.rope.rotary_dim)
    writer.add_rope_freq_base(spec.rope.theta)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(0)
    writer.add_tensor("token_embd.weight", as_array(tensors["model.embed_tokens.weight"]))
    writer.add_tensor("output_norm.weight", as_array(tensors["model.norm.weight"]))
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    writer.add_tensor("output.weight", as_array(head))
    for i in range(spec.num_layers):
        for theirs, ours in NAMES.items():
            tensor = tensors[f"model.layers.{i}.{theirs}.weight"]
            writer.add_tensor(f"blk.{i}.{ours}.weight", as_array(interleaved(tensor, ours, spec)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(tensor: Tensor, name: str, spec: ModelSpec) -> Tensor:
    """llama.cpp rotates neighbouring dimensions, Hugging Face halves: reorder q and k rows."""
    heads = {"attn_q": spec.num_heads, "attn_k": spec.num_kv_heads}.get(name)
    if heads is None:
        return tensor
    split = tensor.view(heads, 2, spec.head_dim // 2, tensor.shape[1])
    return split.transpose(1, 2).reshape(tensor.shape)


def as_array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return tensor.float().contiguous().numpy()


class Peer:
    """llama.cpp with one choice of settings."""

    def __init__(self, path: Path, context: int, threads: int, flash: bool, ubatch: int) -> None:
        self._llama = Llama(
            str(path),
            n_ctx=context + EVENT_TOKENS + 4 * DECODE_TOKENS,
            n_batch=2048,
            n_ubatch=ubatch,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=flash,
            verbose=False,
        )

    def logits(self, tokens: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Next-token logits [vocab] after ``tokens``, from an empty cache."""
        self._llama.reset()
        self._llama.eval(tokens)
        row = self._llama.n_tokens - 1
        return np.array(self._llama.scores[row if self._llama._logits_all else 0])

    def full_ms(self, tokens: list[int]) -> float:
        """Everything again, as after a change near the front."""
        self._llama.reset()
        return timed_ms(lambda: self._llama.eval(tokens))

    def prefix_ms(self, context: int, event: list[int]) -> float:
        """The event on a cache that holds all before it."""
        self._llama.n_tokens = context
        return timed_ms(lambda: self._llama.eval(event))

    def decode_ms(self, token: int) -> float:
        """Per token of a reply."""

        def reply() -> None:
            for _ in range(DECODE_TOKENS):
                self._llama.eval([token])

        return timed_ms(reply) / DECODE_TOKENS


def timed_ms(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3


class Ours:
    """The engine on the same prompt."""

    def __init__(self, folder: Path, context: int, seed: int = 0) -> None:
        self.engine = Engine(load_runner(folder, kv_memory_bytes=2**30))
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


def compare(folder: Path, path: Path, context: int, threads: int, rounds: int) -> list[str]:
    """Table rows for one context length."""
    ours = Ours(folder, context)
    times: dict[str, list[float]] = {"prefix": [], "changed": [], "decode": []}
    best = dict.fromkeys(times, float("inf"))
    for flash, ubatch in SETTINGS:
        peer = Peer(path, context, threads, flash, ubatch)
        theirs: dict[str, list[float]] = {"prefix": [], "changed": [], "decode": []}
        for _ in range(rounds):
            tokens = ours.prompt()
            if not theirs["changed"]:  # seconds long: once for each setting
                theirs["changed"].append(peer.full_ms(tokens))
            times["changed"].append(ours.changed_ms())
            peer.prefix_ms(context, tokens[context:])  # warm
            theirs["prefix"].append(peer.prefix_ms(context, tokens[context:]))
            times["prefix"].append(ours.prefix_ms())
            theirs["decode"].append(peer.decode_ms(7))
            times["decode"].append(ours.decode_ms())
        for name, values in theirs.items():
            best[name] = min(best[name], statistics.median(values))
    ours.engine.close()
    labels = {
        "prefix": "TTFT, everything cached",
        "changed": "TTFT, early block changed",
        "decode": "per generated token",
    }
    rows = []
    for name, label in labels.items():
        mine = statistics.median(times[name])
        rows.append(
            f"| {context:,} | {label} | {mine:.1f} | {best[name]:,.1f} | {mine / best[name]:.3f} |"
        )
    return rows


def check_same_model(folder: Path, path: Path, threads: int) -> None:
    """Refuse to compare times of models that do not agree."""
    runner = load_runner(folder, kv_memory_bytes=2**26)
    engine = Engine(runner)
    tokens = np.random.default_rng(1).integers(5, runner.vocab_size, 64).tolist()
    mine = engine.logits([], tokens, "full")[-1].numpy()
    engine.close()
    theirs = Peer(path, 512, threads, False, 512).logits(tokens)
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
        path = Path(temporary) / "model.gguf"
        export(folder, path)
        check_same_model(folder, path, args.threads)
        rows = [
            row
            for context in args.context.split(",")
            for row in compare(folder, path, int(context), args.threads, args.rounds)
        ]
    report = (
        f"ms, event of {EVENT_TOKENS} tokens, {args.threads} threads, float32, same weights.\n\n"
        "| context | | game-agent | llama.cpp, best setting | ratio |\n|---:|---|---:|---:|---:|\n"
        + "\n".join(rows)
        + "\n"
    )
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# Beside llama.cpp\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()

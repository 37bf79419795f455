"""Loading a large checkpoint: time, and memory beside the model's own. Linux.

    python bench/load.py [--layers 4] [--weights int8] [--folder DIR] [--out FILE.md]

Makes a checkpoint of Llama-3.1-8B's shape with some of its 32 layers (random bfloat16 numbers, in
shards, about 2.1 GB and 0.44 GB a layer), and loads it in a fresh process: once from the disk, once
from the system's cache of files. Memory is the process's resident set, mapped files included; its
peak is counted from right before the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from game_agent.model.runner import load_runner
from game_agent.model.weights import Weights

GB = 1e9
HIDDEN, INNER, HEADS, KV_HEADS, VOCAB = 4096, 14336, 32, 8, 128256
ALL_LAYERS = 32
DIM = HIDDEN // HEADS
ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Loaded:
    """What a load took. Bytes; ``peak`` is the most above what there was before."""

    seconds: float
    packed: int
    peak: int
    after: int


def make_checkpoint(folder: Path, num_layers: int) -> int:
    """Write a checkpoint into ``folder``; returns the bytes of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": num_layers,
        "vocab_size": VOCAB,
        "max_position_embeddings": 131072,
        "rope_scaling": ROPE,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    _byte_tokenizer().save(str(folder / "tokenizer.json"))
    shards = list(_shards(num_layers))
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: _random(shape) for name, shape in shapes.items()}, folder / file)
        weight_map |= dict.fromkeys(shapes, file)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return size


def _shards(num_layers: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and shapes, four layers in a file."""
    yield {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    layers = [_layer(f"model.layers.{i}.") for i in range(num_layers)]
    for first in range(0, num_layers, 4):
        yield dict(chain.from_iterable(layer.items() for layer in layers[first : first + 4]))
    yield {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def _layer(prefix: str) -> dict[str, tuple[int, ...]]:
    kv = KV_HEADS * DIM
    return {
        f"{prefix}input_layernorm.weight": (HIDDEN,),
        f"{prefix}mlp.down_proj.weight": (HIDDEN, INNER),
        f"{prefix}mlp.gate_proj.weight": (INNER, HIDDEN),
        f"{prefix}mlp.up_proj.weight": (INNER, HIDDEN),
        f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
        f"{prefix}self_attn.k_proj.weight": (kv, HIDDEN),
        f"{prefix}self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        f"{prefix}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        f"{prefix}self_attn.v_proj.weight": (kv, HIDDEN),
    }


def _random(shape: tuple[int, ...]) -> Tensor:
    """A million random numbers, again and again: what they are does not matter to loading."""
    count = torch.Size(shape).numel()
    numbers = (0.02 * torch.randn(2**20)).bfloat16()
    return numbers.repeat(-(-count // len(numbers)))[:count].view(shape)


def _byte_tokenizer() -> Tokenizer:
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def load_here(folder: Path, weights: str | None) -> Loaded:
    """Load in this process."""
    # Forgets the highest resident set so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    begun = time.perf_counter()
    runner = load_runner(folder, kv_memory_bytes=2**24, device="cpu", weights=weights)
    seconds = time.perf_counter() - begun
    return Loaded(
        seconds,
        packed_bytes(runner.decoder.weights),
        _status("VmHWM") - before,
        _status("VmRSS") - before,
    )


def packed_bytes(weights: Weights) -> int:
    """What a model's tensors take in memory, each counted once."""
    tensors = [weights.embedding, weights.norm, weights.head.weight, weights.head.scale]
    for layer in weights.layers:
        tensors += [layer.input_norm, layer.post_norm]
        for linear in (layer.qkv, layer.out, layer.gate_up, layer.down):
            tensors += [linear.weight, linear.scale]
    sizes = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in tensors
        if t is not None
    }
    return sum(sizes.values())


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def load_apart(folder: Path, weights: str | None, *, from_disk: bool) -> Loaded:
    """Load in a fresh process; ``from_disk``: with nothing of the files in the system's cache."""
    if from_disk:
        for path in folder.glob("*.safetensors"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, __file__, "--load", str(folder)]
    if weights:
        command += ["--weights", weights]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Loaded(**json.loads(result.stdout.splitlines()[-1]))


def report(folder: Path, num_layers: int, weights: str | None) -> str:
    size = make_checkpoint(folder, num_layers)
    lines = [
        "| files | seconds | GB/s | packed model | peak | peak over packed | after |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for where, from_disk in (("on disk", True), ("in the system's cache", False)):
        took = load_apart(folder, weights, from_disk=from_disk)
        lines.append(
            f"| {where} | {took.seconds:.1f} | {size / took.seconds / GB:.2f} "
            f"| {took.packed / GB:.2f} GB | {took.peak / GB:.2f} GB "
            f"| {took.peak / took.packed:.2f} × | {took.after / GB:.2f} GB |"
        )
        print(lines[-1], file=sys.stderr)
    return (
        f"Llama-3.1-8B's shape with {num_layers} of its {ALL_LAYERS} layers: {size / GB:.2f} GB of "
        f"bfloat16 in {len(list(folder.glob('*.safetensors')))} shards, weights kept as "
        f"{weights or 'they are'}, {torch.get_num_threads()} threads. Peak: the largest resident "
        "set, mapped files included, above the process's before loading.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=4, help=f"of {ALL_LAYERS}")
    parser.add_argument("--weights", default=None, help="'int8' rounds them")
    parser.add_argument("--folder", default=None, help="where the checkpoint is made; stays there")
    parser.add_argument("--load", default=None, help="only load this checkpoint, in this process")
    parser.add_argument("--out", default=None, help="write the table to this file as well")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(asdict(load_here(Path(args.load), args.weights))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        text = report(Path(args.folder or temporary), args.layers, args.weights)
    print(text)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# Loading a checkpoint\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()

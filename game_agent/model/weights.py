"""Checkpoint tensors, streamed from safetensors into the decoder's packed layout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from game_agent.errors import ModelError
from game_agent.model.spec import ModelSpec, read_json
from game_agent_kernels import PackedLinear

# Kernels.pack_linear: weight [out, in] and bias [out] or None.
Pack = Callable[[Tensor, Tensor | None], PackedLinear]


@dataclass
class LayerWeights:
    """One layer. ``qkv`` stacks the projections q, k, v; ``gate_up`` stacks gate and up."""

    input_norm: Tensor
    qkv: PackedLinear
    out: PackedLinear
    post_norm: Tensor
    gate_up: PackedLinear
    down: PackedLinear
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


@dataclass
class Weights:
    """All tensors of a model on one device, and a digest that names them.

    embedding: [vocab, hidden]; tied embeddings may be packed once more as ``head``
    """

    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    head: PackedLinear
    digest: bytes = field(default=b"")


def load_weights(
    folder: Path,
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    pack: Pack,
    packing: str = "",
) -> Weights:
    """Read every tensor of ``spec`` once; each matrix is packed before the next one is read.

    packing: a name for how ``pack`` changes numbers, part of the digest

    Raises :class:`ModelError` for a missing or damaged file, a missing tensor, or a wrong shape.
    """
    source = _Source(folder, device, dtype)
    hidden = spec.hidden_size
    embedding = source.take("model.embed_tokens.weight", (spec.vocab_size, hidden))
    head = (
        embedding
        if spec.tied_embeddings
        else source.take("lm_head.weight", (spec.vocab_size, hidden))
    )
    return Weights(
        embedding=embedding,
        layers=[_layer(source, spec, i, pack) for i in range(spec.num_layers)],
        norm=source.take("model.norm.weight", (hidden,)),
        head=pack(head, None),
        digest=_digest(folder, source.files, f"{dtype}{packing}"),
    )


def _layer(source: _Source, spec: ModelSpec, index: int, pack: Pack) -> LayerWeights:
    prefix = f"model.layers.{index}."
    hidden, inner, dim = spec.hidden_size, spec.intermediate_size, spec.head_dim
    q, kv = spec.num_heads * dim, spec.num_kv_heads * dim
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    projections = [
        (attention + "q_proj", q),
        (attention + "k_proj", kv),
        (attention + "v_proj", kv),
    ]
    gates = [(mlp + "gate_proj", inner), (mlp + "up_proj", inner)]
    return LayerWeights(
        input_norm=source.take(prefix + "input_layernorm.weight", (hidden,)),
        qkv=pack(
            source.stack(projections, hidden),
            source.stack(projections, None) if spec.qkv_bias else None,
        ),
        out=pack(
            source.take(attention + "o_proj.weight", (hidden, q)),
            source.take(attention + "o_proj.bias", (hidden,)) if spec.out_bias else None,
        ),
        post_norm=source.take(prefix + "post_attention_layernorm.weight", (hidden,)),
        gate_up=pack(
            source.stack(gates, hidden), source.stack(gates, None) if spec.mlp_bias else None
        ),
        down=pack(
            source.take(mlp + "down_proj.weight", (hidden, inner)),
            source.take(mlp + "down_proj.bias", (hidden,)) if spec.mlp_bias else None,
        ),
        q_norm=source.take(attention + "q_norm.weight", (dim,)) if spec.qk_norm else None,
        k_norm=source.take(attention + "k_norm.weight", (dim,)) if spec.qk_norm else None,
    )


class _Source:
    """Tensors by name, from one safetensors file or the shards that an index names."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._home: dict[str, Path] = {}
        self._open: dict[Path, safe_open] = {}
        index = folder / "model.safetensors.index.json"
        if index.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise ModelError(f"{index}: weight_map is missing")
            self.files = sorted({folder / str(name) for name in weight_map.values()})
        else:
            self.files = [folder / "model.safetensors"]
        for path in self.files:
            self._open_file(path)

    def _open_file(self, path: Path) -> None:
        if not path.exists():
            raise ModelError(f"{path} does not exist; the checkpoint is incomplete")
        try:
            handle = safe_open(str(path), framework="pt", device=str(self._device))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged or not a safetensors file: {error}") from None
        self._open[path] = handle
        self._home.update(dict.fromkeys(handle.keys(), path))

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        path = self._home.get(name)
        if path is None:
            raise ModelError(f"tensor {name} is missing in {', '.join(map(str, self.files))}")
        try:
            tensor: Tensor = self._open[path].get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{path}: tensor {name} cannot be read: {error}") from None
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"config.json asks for {shape}"
            )
        return tensor

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor in the runtime's dtype."""
        return self._read(name, shape).to(self._dtype, copy=True)

    def stack(self, parts: list[tuple[str, int]], inner: int | None) -> Tensor:
        """Weights [sum of rows, inner] (or, for inner None, biases) of several projections."""
        rows = sum(count for _, count in parts)
        shape = (rows,) if inner is None else (rows, inner)
        packed = torch.empty(shape, dtype=self._dtype, device=self._device)
        start = 0
        for name, count in parts:
            part = (count,) if inner is None else (count, inner)
            suffix = ".bias" if inner is None else ".weight"
            packed[start : start + count] = self._read(name + suffix, part)
            start += count
        return packed


def _digest(folder: Path, files: list[Path], types: str) -> bytes:
    """Names the model's numbers: config, types, and a sample of every file's bytes.

    A full hash of an 8B checkpoint costs minutes; 64 samples of 4 KiB per file (and its size) tell
    two checkpoints apart that differ anywhere training would make them differ.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update((folder / "config.json").read_bytes() + types.encode())
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for i in range(64):
                file.seek(size * i // 64)
                digest.update(file.read(4096))
    return digest.digest()

"""Checkpoint tensors, streamed from safetensors into the decoder's packed layout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from game_agent.model.spec import ModelSpec
from game_agent.model.tensors import CheckpointTensors
from game_agent_kernels import PackedLinear

# Kernels.pack_linear: weight [out, in] of any floating dtype, bias [out] of the runtime's or None.
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

    embedding: [vocab, hidden], maybe of fewer bits than the rest, whose dtype is that of the norms;
               tied embeddings may be packed once more as ``head``
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

    So the most memory is what the packed model takes, and one matrix as its file has it.

    packing: a name for how ``pack`` changes numbers, part of the digest

    Raises :class:`ModelError` for a missing or damaged file, a missing tensor, a wrong shape, or
    tensors that the model does not have.
    """
    tensors = CheckpointTensors(folder, device)
    source = _Source(tensors, dtype, pack)
    shape = (spec.vocab_size, spec.hidden_size)
    embedding = source.table("model.embed_tokens.weight", shape)
    # The largest matrix comes first, while little else is there.
    if spec.tied_embeddings:
        head = pack(embedding, None)
    else:
        head = source.linear({"lm_head": spec.vocab_size}, spec.hidden_size, has_bias=False)
    weights = Weights(
        embedding=embedding,
        layers=[_layer(source, spec, i) for i in range(spec.num_layers)],
        norm=source.vector("model.norm.weight", spec.hidden_size),
        head=head,
        digest=_digest(folder, tensors.files, f"{dtype}{packing}"),
    )
    # Tied heads are saved by some programs and left out by others.
    tensors.check_all_read({"lm_head.weight"} if spec.tied_embeddings else ())
    return weights


def _layer(source: _Source, spec: ModelSpec, index: int) -> LayerWeights:
    prefix = f"model.layers.{index}."
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    hidden, inner, dim = spec.hidden_size, spec.intermediate_size, spec.head_dim
    q, kv = spec.num_heads * dim, spec.num_kv_heads * dim
    projections = {attention + "q_proj": q, attention + "k_proj": kv, attention + "v_proj": kv}
    gates = {mlp + "gate_proj": inner, mlp + "up_proj": inner}
    return LayerWeights(
        input_norm=source.vector(prefix + "input_layernorm.weight", hidden),
        qkv=source.linear(projections, hidden, has_bias=spec.qkv_bias),
        out=source.linear({attention + "o_proj": hidden}, q, has_bias=spec.out_bias),
        post_norm=source.vector(prefix + "post_attention_layernorm.weight", hidden),
        gate_up=source.linear(gates, hidden, has_bias=spec.mlp_bias),
        down=source.linear({mlp + "down_proj": hidden}, inner, has_bias=spec.mlp_bias),
        q_norm=source.vector(attention + "q_norm.weight", dim) if spec.qk_norm else None,
        k_norm=source.vector(attention + "k_norm.weight", dim) if spec.qk_norm else None,
    )


class _Source:
    """Tensors of a checkpoint in the form that the decoder wants them."""

    def __init__(self, tensors: CheckpointTensors, dtype: torch.dtype, pack: Pack) -> None:
        self._tensors, self._dtype, self._pack = tensors, dtype, pack

    def vector(self, name: str, length: int) -> Tensor:
        """A norm's weights [length] in the runtime's dtype."""
        return self._tensors.read(name, (length,)).to(self._dtype, copy=True)

    def table(self, name: str, shape: tuple[int, int]) -> Tensor:
        """Embeddings [vocab, hidden]; of 16 bits in float32's place, since that changes no number
        and a pass looks up few of them."""
        table = self._tensors.read(name, shape)
        narrow = self._dtype == torch.float32 and table.dtype in (torch.bfloat16, torch.float16)
        return table.to(table.dtype if narrow else self._dtype, copy=True)

    def linear(self, parts: Mapping[str, int], num_in: int, *, has_bias: bool) -> PackedLinear:
        """Layers [rows, num_in] stacked as one, given their names and rows."""
        weight = self._stacked({f"{name}.weight": (n, num_in) for name, n in parts.items()})
        if not has_bias:
            return self._pack(weight, None)
        bias = self._stacked({f"{name}.bias": (n,) for name, n in parts.items()})
        return self._pack(weight, bias.to(self._dtype))

    def _stacked(self, shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
        """A copy in the file's dtype: what is only mapped would change with the file."""
        return torch.cat([self._tensors.read(name, shape) for name, shape in shapes.items()])


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

"""The bundled model: a small Llama with the usual parameter names, written for packed batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from game_agent.training.attention import attend, merge
from game_agent.training.batches import Batch
from game_agent.training.elementwise import rms_norm, rotate, rotation_table


@dataclass(frozen=True)
class NetworkSize:
    """Sizes of the network, as in a Llama's ``config.json``."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_layers: int = 5
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 64
    intermediate_size: int = 768
    rope_theta: float = 500000.0
    norm_eps: float = 1e-5
    max_positions: int = 16384


class Norm(nn.Module):
    """RMS normalisation; gives the dtype of the matrices that follow."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return rms_norm(x, self.weight, self.eps, dtype)


class Attention(nn.Module):
    """Every frame attends to itself causally, events to their sample's context too."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.size = size
        heads, kv_heads = size.num_heads * size.head_dim, size.num_kv_heads * size.head_dim
        self.q_proj = nn.Linear(size.hidden_size, heads, bias=False)
        self.k_proj = nn.Linear(size.hidden_size, kv_heads, bias=False)
        self.v_proj = nn.Linear(size.hidden_size, kv_heads, bias=False)
        self.o_proj = nn.Linear(heads, size.hidden_size, bias=False)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], batch: Batch, events_only: bool
    ) -> Tensor:
        """x [T, hidden] -> [T, hidden], or [T - C, hidden] of the events only."""
        context, events = self._project(x, rope).split(
            [len(batch.context_slots), len(batch.event_slots)]
        )
        own = _within(events, batch.event_frames, batch.event_slots)
        across = _across_groups if batch.group_events else _across
        out = merge(own, across(events, context, batch))
        if not events_only:
            context_out, _ = _within(context, batch.context_frames, batch.context_slots)
            out = torch.cat([context_out, out])
        return _linear(out.flatten(1), self.o_proj)

    def _project(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Queries, keys and values [T, 3, heads, dim]; heads of a group share the last two."""
        size = self.size
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        qkv = F.linear(x, weight.to(x.dtype)).unflatten(-1, (-1, size.head_dim))
        queries, keys, values = qkv.split([size.num_heads, size.num_kv_heads, size.num_kv_heads], 1)
        queries, keys = rotate(queries, *rope), rotate(keys, *rope)
        if (group := size.num_heads // size.num_kv_heads) > 1:
            keys, values = (t.repeat_interleave(group, 1) for t in (keys, values))
        return torch.stack([queries, keys, values], 1)


def _within(qkv: Tensor, frames: list[Tensor], slots: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention in each frame: [n, 3, heads, dim] -> output and lse [n, heads, dim or 1]."""
    gathered = qkv.index_select(0, torch.cat([rows.flatten() for rows in frames]))
    outs, lses = [], []
    for table, rows in zip(gathered.split([rows.numel() for rows in frames]), frames, strict=True):
        q, k, v = table.unflatten(0, rows.shape).permute(2, 0, 3, 1, 4).unbind()
        out, lse = attend(q, k, v, is_causal=True)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        lses.append(lse.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs).index_select(0, slots), torch.cat(lses).index_select(0, slots)


def _across(events: Tensor, context: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Attention of each sample's events to its context: -> (output, lse) of all event rows."""
    contexts = context[:, 1:].split([length for length, _ in batch.lengths])
    queries = events[:, 0].split([length for _, length in batch.lengths])
    outs, lses = [], []
    for q, kv in zip(queries, contexts, strict=True):
        k, v = kv.permute(1, 2, 0, 3).unbind()
        out, lse = attend(q.transpose(0, 1), k, v, is_causal=False)
        outs.append(out.transpose(0, 1))
        lses.append(lse.transpose(0, 1))
    return torch.cat(outs), torch.cat(lses)


def _across_groups(events: Tensor, context: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same in few operations: samples of like lengths together."""
    queries, keys_values = events[:, 0], context[:, 1:]
    outs, lses = [], []
    tables = zip(batch.group_contexts, batch.group_events, batch.group_lengths, strict=True)
    for contexts, asked, lengths in tables:
        kv = keys_values.index_select(0, contexts.flatten()).unflatten(0, contexts.shape)
        q = queries.index_select(0, asked.flatten()).unflatten(0, asked.shape)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind()
        out, lse = attend(q.transpose(1, 2), k, v, is_causal=False, lengths=lengths)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        lses.append(lse.transpose(1, 2).flatten(0, 1))
    slots = batch.group_slots
    return torch.cat(outs).index_select(0, slots), torch.cat(lses).index_select(0, slots)


class Mlp(nn.Module):
    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.down_proj = nn.Linear(size.intermediate_size, size.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.silu(_linear(x, self.gate_proj))
        return _linear(gate * _linear(x, self.up_proj), self.down_proj)


class Layer(nn.Module):
    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.input_layernorm = Norm(size.hidden_size, size.norm_eps)
        self.self_attn = Attention(size)
        self.post_attention_layernorm = Norm(size.hidden_size, size.norm_eps)
        self.mlp = Mlp(size)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], batch: Batch, events_only: bool
    ) -> Tensor:
        dtype = rope[0].dtype
        normed = self.input_layernorm(x, dtype)
        if events_only:
            x = x[len(batch.context_slots) :]
        x = x + self.self_attn(normed, rope, batch, events_only)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x, dtype))
        return out


class Body(nn.Module):
    """Everything but the head; named as in Hugging Face's Llama."""

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(size.vocab_size, size.hidden_size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.num_layers))
        self.norm = Norm(size.hidden_size, size.norm_eps)


class Network(nn.Module):
    """The language model. Its ``state_dict`` is a LlamaForCausalLM's."""

    inverse_frequencies: Tensor

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.size = size
        self.model = Body(size)
        self.lm_head = nn.Linear(size.hidden_size, size.vocab_size, bias=False)
        half = torch.arange(0, size.head_dim, 2).float() / size.head_dim
        self.register_buffer("inverse_frequencies", size.rope_theta**-half, persistent=False)
        self._initialise()

    @property
    def layers(self) -> list[Layer]:
        """From the embedding to the head."""
        return [layer for layer in self.model.layers if isinstance(layer, Layer)]

    def forward(self, batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits [N, vocab] float32 at ``batch.label_rows``; matrices in ``dtype``."""
        rope = rotation_table(batch.positions, self.inverse_frequencies, dtype)
        x = self.model.embed_tokens(batch.tokens)
        for layer in self.model.layers:
            # The last layer's context rows are needed as keys and values only.
            x = layer(x, rope, batch, layer is self.model.layers[-1])
        x = self.model.norm(x[batch.label_rows], dtype)
        return _linear(x, self.lm_head).float()

    def _initialise(self) -> None:
        """Outputs of layers start small, so that the first layers learn as if alone."""
        small = 0.02 / (2 * self.size.num_layers) ** 0.5
        for name, weight in self.named_parameters():
            if name.endswith("embed_tokens.weight"):
                nn.init.normal_(weight, std=1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(weight, std=small)
            elif name.endswith("lm_head.weight"):
                nn.init.normal_(weight, std=0.02)
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.7 * weight.shape[1] ** -0.5)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """``layer`` in the dtype of ``x``."""
    return F.linear(x, layer.weight.to(x.dtype))

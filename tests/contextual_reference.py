"""Contextual mode in plain torch: all keys of the prompt in one array, rotated when used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

Ids = tuple[int, ...]


@dataclass
class Kept:
    """A block's unrotated keys and values [layers, n, kv_heads, dim], and the prompt up to its end
    for which they are what a full prefill gives, if any."""

    keys: Tensor
    values: Tensor
    exact: tuple[Ids, ...] | None


class PlainContextual:
    """What contextual mode should give, for prompts whose blocks all differ."""

    def __init__(self, model: PreTrainedModel, repair_tokens: int) -> None:
        self._model = model
        self._repair_tokens = repair_tokens
        self._last: list[Ids] = []
        self._kept: dict[Ids, Kept] = {}
        self.num_computed = 0

    def logits(self, blocks: Sequence[Ids], event: Ids) -> Tensor:
        """Logits [event, vocab]."""
        fresh = fresh_tokens(self._last, blocks, self._repair_tokens, self._is_exact(blocks))
        self.num_computed = sum(map(sum, fresh))
        rows = torch.tensor(
            [is_fresh for flags in fresh for is_fresh in flags] + [True] * len(event)
        )
        ids = torch.tensor([token for block in [*blocks, event] for token in block])
        config = self._model.config
        shape = (config.num_hidden_layers, len(ids), config.num_key_value_heads, config.head_dim)
        keys, values = torch.zeros(shape), torch.zeros(shape)
        at = 0
        for block in blocks:
            if block in self._kept:
                keys[:, at : at + len(block)] = self._kept[block].keys
                values[:, at : at + len(block)] = self._kept[block].values
            at += len(block)
        logits = forward(self._model, ids, rows, keys, values)
        self._keep(blocks, fresh, keys, values)
        return logits[-len(event) :]

    def refresh(self) -> None:
        """Everything of the last prompt as a full prefill gives it."""
        blocks, self._last, self._kept = self._last, [], {}
        self.logits(blocks, (0,))

    def _is_exact(self, blocks: Sequence[Ids]) -> list[bool]:
        return [
            block in self._kept and self._kept[block].exact == tuple(blocks[: i + 1])
            for i, block in enumerate(blocks)
        ]

    def _keep(
        self, blocks: Sequence[Ids], fresh: list[list[bool]], keys: Tensor, values: Tensor
    ) -> None:
        exact = self._is_exact(blocks)
        kept, at, all_exact = {}, 0, True
        for i, block in enumerate(blocks):
            all_exact = all_exact and (exact[i] or all(fresh[i]))
            rows = slice(at, at + len(block))
            chain = tuple(blocks[: i + 1]) if all_exact or exact[i] else None
            kept[block] = Kept(keys[:, rows].clone(), values[:, rows].clone(), chain)
            if chain is None and not any(fresh[i]):
                kept[block].exact = self._kept[block].exact
            at += len(block)
        self._last, self._kept = list(blocks), kept


def fresh_tokens(
    last: Sequence[Ids], blocks: Sequence[Ids], repair_tokens: int, exact: Sequence[bool]
) -> list[list[bool]]:
    """Of each token, whether it is computed anew, found out token by token."""
    fresh: list[list[bool]] = []
    in_stretch = repair_tokens  # tokens since the stretch began; the prompt's begin needs no repair
    for i, block in enumerate(blocks):
        flags = []
        before_now = blocks[i - 1] if i else None
        place = last.index(block) if block in last else -1
        before_then = last[place - 1] if place > 0 else None
        if place < 0 or before_now != before_then:
            in_stretch = 0
        for _ in block:
            flags.append(place < 0 or (in_stretch < repair_tokens and not exact[i]))
            in_stretch += 1
        fresh.append(flags)
    return fresh


@torch.inference_mode()
def forward(
    model: PreTrainedModel, ids: Tensor, fresh: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Logits [fresh rows, vocab] of a llama; keys and values of those rows are filled in.

    ids, fresh: [n]; keys (unrotated), values: [layers, n, kv_heads, dim]. In every layer each fresh
    row sees all rows up to itself, as they are after that layer's were filled in.
    """
    config, positions = model.config, torch.arange(len(ids))
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    hidden = model.model.embed_tokens(ids[fresh])
    cos, sin = model.model.rotary_emb(hidden, positions[None])
    hidden_rows = len(hidden)
    causal = positions[None, :] <= positions[fresh][:, None]
    for i, layer in enumerate(model.model.layers):
        attention, x = layer.self_attn, layer.input_layernorm(hidden)
        keys[i, fresh] = attention.k_proj(x).view(hidden_rows, groups, -1)
        values[i, fresh] = attention.v_proj(x).view(hidden_rows, groups, -1)
        q = rotated(attention.q_proj(x).view(hidden_rows, heads, -1), cos[0, fresh], sin[0, fresh])
        k = rotated(keys[i], cos[0], sin[0]).repeat_interleave(heads // groups, 1)
        v = values[i].repeat_interleave(heads // groups, 1)
        scores = torch.einsum("thd,nhd->htn", q, k) * attention.scaling
        weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
        out = torch.einsum("htn,nhd->thd", weights, v).flatten(1)
        hidden = hidden + attention.o_proj(out)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits: Tensor = model.lm_head(model.model.norm(hidden))
    return logits


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE: x [n, heads, dim], cos and sin [n, dim]."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

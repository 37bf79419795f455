"""The packed decoder: one forward pass over the rows of many runs, keys and values in pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from game_agent.blocks.pool import PagePool
from game_agent.model.planner import Step
from game_agent.model.rope import Rope
from game_agent.model.spec import ModelSpec
from game_agent.model.weights import LayerWeights, Weights
from game_agent_kernels import Draws, Kernels, Plan
from game_agent_kernels.dispatch import CompiledDecoder

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Inputs:
    """A step on its device: tokens, slots [T] int64, cos, sin [T, rotary_dim / 2], out_rows [O]."""

    tokens: Tensor
    cos: Tensor
    sin: Tensor
    slots: Tensor
    out_rows: Tensor
    plan: Plan
    out_plan: Plan


class Decoder:
    """Covers the Llama-shaped families; what differs between them is in the spec and weights."""

    def __init__(self, spec: ModelSpec, weights: Weights, kernels: Kernels) -> None:
        self.spec = spec
        self.weights = weights
        self.rope = Rope(spec.rope)
        self.kernels = kernels
        self._scale = spec.head_dim**-0.5
        self.compiled = self._compile()

    def _compile(self) -> CompiledDecoder | None:
        """All layers as one call, where these kernels have that."""
        if self.kernels.compile_decoder is None:
            return None
        return self.kernels.compile_decoder(
            self.weights.layers,
            self.weights.norm,
            self.weights.head,
            num_heads=self.spec.num_heads,
            num_kv_heads=self.spec.num_kv_heads,
            eps=self.spec.norm_eps,
            scale=self._scale,
        )

    @property
    def is_compiled(self) -> bool:
        """Whether a pass is one call."""
        return self.compiled is not None

    @property
    def device(self) -> torch.device:
        return self.weights.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return self.weights.norm.dtype

    def forward(self, step: Step, pool: PagePool) -> Tensor:
        """Run ``step``: writes keys and values of all its rows into ``pool``.

        Returns logits [len(step.out_rows), vocab] in float32.
        """
        if self.compiled is not None:
            return self._forward_compiled(self.compiled, step, pool)
        cos, sin = self.rope.encoding(step.plan.row_positions)
        inputs = Inputs(
            tokens=torch.from_numpy(step.tokens).to(self.device),
            cos=torch.from_numpy(cos).to(self.device),
            sin=torch.from_numpy(sin).to(self.device),
            slots=torch.from_numpy(step.plan.row_slots).to(self.device),
            out_rows=torch.from_numpy(step.out_rows).to(self.device),
            plan=step.plan,
            out_plan=step.out_plan,
        )
        return self.compute(inputs, pool)

    def _embed(self, tokens: npt.NDArray[np.int64]) -> Tensor:
        """Embeddings [T, hidden] float32; numpy's are quicker, but it knows no bfloat16."""
        table = self.weights.embedding
        if table.dtype == torch.bfloat16:
            return table[torch.from_numpy(tokens)].float()
        return torch.from_numpy(table.numpy().take(tokens, axis=0).astype(np.float32, copy=False))

    def burst(
        self,
        step: Step,
        slots: Longs,
        draws: Draws,
        stops: Longs,
        news: Ints,
        max_s: float,
        pool: PagePool,
    ) -> Longs:
        """Passes that follow on one another, compiled: see ``CompiledDecoder.burst``.

        ``step`` is the first, of one row for each run; slots and chances [steps, rows] are those of
        all.
        """
        assert self.compiled is not None
        last = int(step.plan.row_positions.max()) + len(slots)
        return self.compiled.burst(
            step.tokens,
            slots,
            self.weights.embedding,
            *self.rope.table(last),
            pool.keys,
            pool.values,
            step.plan,
            draws,
            stops,
            news,
            max_s,
        )

    @torch.inference_mode()
    def compute(self, inputs: Inputs, pool: PagePool) -> Tensor:
        """:meth:`forward` without the way to the device, so that a CUDA graph can capture it."""
        residual = F.embedding(inputs.tokens, self.weights.embedding).to(self.dtype)
        return self._layer_by_layer(inputs, residual, pool)

    def _forward_compiled(self, compiled: CompiledDecoder, step: Step, pool: PagePool) -> Tensor:
        """One call for all layers. A pass has swept the caches, so that each of torch's operations
        around it would be slow: what prepares it is numpy's.
        """
        plan = step.plan
        cos, sin = self.rope.encoding(plan.row_positions)
        return compiled.forward(
            self._embed(step.tokens),
            torch.from_numpy(cos),
            torch.from_numpy(sin),
            torch.from_numpy(plan.row_slots),
            pool.keys,
            pool.values,
            plan,
            torch.from_numpy(step.out_rows),
            step.out_plan,
        )

    def _layer_by_layer(self, inputs: Inputs, residual: Tensor, pool: PagePool) -> Tensor:
        """The same with one call per operation, on any device."""
        num_rows, num_out = len(inputs.tokens), len(inputs.out_rows)
        last = self.spec.num_layers - 1
        delta: Tensor | None = None
        for i, layer in enumerate(self.weights.layers):
            x, residual = self._norm(residual, delta, layer.input_norm)
            q = self.kernels.rope_store(
                self.kernels.linear(x, layer.qkv),
                inputs.cos,
                inputs.sin,
                inputs.slots,
                pool.keys[i],
                pool.values[i],
                num_heads=self.spec.num_heads,
                q_norm=layer.q_norm,
                k_norm=layer.k_norm,
                eps=self.spec.norm_eps,
            )
            plan = inputs.plan
            if i == last and num_out < num_rows:
                if not num_out:
                    return q.new_empty(0, self.spec.vocab_size, dtype=torch.float32)
                rows, plan = inputs.out_rows, inputs.out_plan
                q, residual = q[rows], residual[rows]
            delta, residual = self._layer(layer, q, residual, i, plan, pool)
        x, _ = self._norm(residual, delta, self.weights.norm)
        return self.kernels.linear(x, self.weights.head).float()

    def _layer(
        self, layer: LayerWeights, q: Tensor, residual: Tensor, i: int, plan: Plan, pool: PagePool
    ) -> tuple[Tensor, Tensor]:
        """Attention and MLP: q [T, heads, dim], residual [T, hidden] -> (MLP output, residual)."""
        attended = self.kernels.segment_attention(
            q, pool.keys[i], pool.values[i], plan, self._scale
        )
        out = self.kernels.linear(attended.flatten(1), layer.out)
        x, residual = self._norm(residual, out, layer.post_norm)
        gate_up = self.kernels.linear(x, layer.gate_up)
        return self.kernels.linear(self.kernels.silu_mul(gate_up), layer.down), residual

    def _norm(
        self, residual: Tensor, delta: Tensor | None, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(norm of residual + delta, that sum)."""
        if delta is None:
            return self.kernels.rms_norm(residual, weight, self.spec.norm_eps), residual
        return self.kernels.add_rms_norm(residual, delta, weight, self.spec.norm_eps)

"""The packed decoder: one forward pass over the rows of many runs, keys and values in pages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from game_agent.blocks.pool import PagePool
from game_agent.model.planner import Step
from game_agent.model.rope import Rope
from game_agent.model.spec import ModelSpec
from game_agent.model.weights import LayerWeights, Weights
from game_agent_kernels import Kernels, Plan


class Decoder:
    """Covers the Llama-shaped families; what differs between them is in the spec and weights."""

    def __init__(self, spec: ModelSpec, weights: Weights, kernels: Kernels) -> None:
        self.spec = spec
        self.weights = weights
        self.rope = Rope(spec.rope)
        self._kernels = kernels
        self._scale = spec.head_dim**-0.5

    @torch.inference_mode()
    def forward(self, step: Step, pool: PagePool) -> Tensor:
        """Run ``step``: writes keys and values of all its rows into ``pool``.

        Returns logits [len(step.out_rows), vocab] in float32.
        """
        device = self.weights.embedding.device
        residual = F.embedding(torch.from_numpy(step.tokens).to(device), self.weights.embedding)
        cos, sin = (
            torch.from_numpy(a).to(device) for a in self.rope.encoding(step.plan.row_positions)
        )
        slots = torch.from_numpy(step.plan.row_slots).to(device)
        out_rows = torch.from_numpy(step.out_rows).to(device)
        last = self.spec.num_layers - 1
        delta: Tensor | None = None
        for i, layer in enumerate(self.weights.layers):
            x, residual = self._norm(residual, delta, layer.input_norm)
            q = self._kernels.rope_store(
                F.linear(x, layer.qkv, layer.qkv_bias),
                cos,
                sin,
                slots,
                pool.keys[i],
                pool.values[i],
                num_heads=self.spec.num_heads,
                q_norm=layer.q_norm,
                k_norm=layer.k_norm,
                eps=self.spec.norm_eps,
            )
            plan = step.plan
            if i == last and len(step.out_rows) < step.plan.num_rows:
                if not len(step.out_rows):
                    return q.new_empty(0, self.spec.vocab_size, dtype=torch.float32)
                q, residual, plan = q[out_rows], residual[out_rows], step.out_plan
            delta, residual = self._layer(layer, q, residual, i, plan, pool)
        x, _ = self._norm(residual, delta, self.weights.norm)
        return F.linear(x, self.weights.head).float()

    def _layer(
        self, layer: LayerWeights, q: Tensor, residual: Tensor, i: int, plan: Plan, pool: PagePool
    ) -> tuple[Tensor, Tensor]:
        """Attention and MLP: q [T, heads, dim], residual [T, hidden] -> (MLP output, residual)."""
        attended = self._kernels.segment_attention(
            q, pool.keys[i], pool.values[i], plan, self._scale
        )
        out = F.linear(attended.flatten(1), layer.out, layer.out_bias)
        x, residual = self._norm(residual, out, layer.post_norm)
        gate_up = F.linear(x, layer.gate_up, layer.gate_up_bias)
        return F.linear(self._kernels.silu_mul(gate_up), layer.down, layer.down_bias), residual

    def _norm(
        self, residual: Tensor, delta: Tensor | None, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(norm of residual + delta, that sum)."""
        if delta is None:
            return self._kernels.rms_norm(residual, weight, self.spec.norm_eps), residual
        return self._kernels.add_rms_norm(residual, delta, weight, self.spec.norm_eps)

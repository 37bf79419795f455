"""Attention for training: scores are kept for the backward pass, which on a CPU is the fast way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Attend(torch.autograd.Function):
    """Softmax attention with its log-sum-exp; matrices in the inputs' dtype, sums in float32."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, is_causal: bool, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scale = q.shape[-1] ** -0.5
        scores = (q * scale) @ k.mT
        if is_causal:
            size = scores.shape[-1]
            later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu_(1)
            scores.masked_fill_(later, float("-inf"))
        if lengths is not None:
            places = torch.arange(scores.shape[-1], device=q.device)
            scores.masked_fill_(places >= lengths[:, None, None, None], float("-inf"))
        highest = scores.amax(-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        total = weights.sum(-1, keepdim=True).float()
        out = weights @ v
        out /= total
        weights *= total.reciprocal().to(q.dtype)
        ctx.save_for_backward(q, k, v, weights, out)
        return out, highest + total.log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, weights, out = ctx.saved_tensors
        d_out, d_lse = gradients
        # d lse / d score is the weight itself, so it joins the usual correction term.
        shift = (d_out.float() * out.float()).sum(-1, keepdim=True) - d_lse
        d_scores = d_out @ v.mT
        d_scores.sub_(shift.to(q.dtype)).mul_(weights)
        scale = q.shape[-1] ** -0.5
        return (d_scores @ k) * scale, (d_scores.mT @ q) * scale, weights.mT @ d_out, None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """q [..., heads, E, dim], k and v [..., heads, K, dim] -> (output like q, lse [..., E, 1]).

    Differentiable in both results. ``is_causal`` needs E = K. With ``lengths`` [n], each at least
    1, the first dimension is n, and only so many keys of each are seen.
    """
    out, lse = _Attend.apply(q, k, v, is_causal, lengths)  # type: ignore[no-untyped-call]
    return out, lse


def merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two sets of keys from (output, lse) over each."""
    (out_1, lse_1), (out_2, lse_2) = first, second
    weight = torch.sigmoid(lse_1 - lse_2).to(out_1.dtype)
    return out_2 + (out_1 - out_2) * weight

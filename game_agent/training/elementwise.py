"""Rotation and normalisation with hand-written gradients: fewer passes over memory on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        # The gradient of a rotation is the rotation back.
        return _rotated(gradients[0], cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    crossed = x.roll(x.shape[-1] // 2, -1)
    crossed *= sin
    return crossed.addcmul_(x, cos)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: x [T, heads, dim], cos and sin [T, 1, dim] of :func:`rotation_table`."""
    rotated: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return rotated


def rotation_table(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """positions [T], frequencies [dim / 2] -> cos, sin [T, 1, dim]; sin's first half is negated."""
    angles = positions[:, None, None].float() * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = _mean_product(x, x).add_(eps).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, weight, scale)
        return (normed * weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        normed, weight, scale = ctx.saved_tensors
        gradient = gradients[0].to(normed.dtype)
        d_weight = torch.linalg.vecdot(gradient, normed, dim=0)
        d_normed = gradient * weight
        d_normed.addcmul_(normed, _mean_product(d_normed, normed), value=-1)
        return d_normed.mul_(scale), d_weight, None, None


def _mean_product(a: Tensor, b: Tensor) -> Tensor:
    mean: Tensor = torch.linalg.vecdot(a, b) / a.shape[-1]
    return mean[..., None]


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x [T, hidden] over the root of its mean square, times ``weight`` [hidden], in ``dtype``."""
    normed: Tensor = _RmsNorm.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return normed

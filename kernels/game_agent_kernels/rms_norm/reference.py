"""Plain torch. Any device."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., dim] -> x / rms(x) * weight, computed in float32, of x's dtype.

    arXiv 1910.07467, in the order of the Llama reference: normalise, cast, then scale.
    """
    full = x.float()
    normed = full * torch.rsqrt(full.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(normalised sum, sum) of x and residual, both [tokens, dim]."""
    total = x + residual
    return rms_norm(total, weight, eps), total

"""Plain torch. Any device."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up [tokens, 2 * inner] (gate, then up) -> silu(gate) * up [tokens, inner]."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up

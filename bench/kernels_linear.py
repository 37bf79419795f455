"""The compiled linear layer with each type of weights, and torch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from game_agent_kernels import PackedLinear
from game_agent_kernels.linear import cpu

SHAPES = [(256, 768), (256, 1024), (512, 256), (256, 3072)]  # the bundled model's
TOLERANCE = 2e-5


def layers(rows: int, num_in: int, num_out: int) -> list[Callable[[], object]]:
    """float32, bfloat16, float16 and int8 weights, each checked; torch's layer is the last."""
    weight, x = torch.randn(num_out, num_in), torch.randn(rows, num_in)
    packed = [
        cpu.pack_linear(weight),
        cpu.pack_linear(weight.bfloat16().float()),
        cpu.pack_linear(weight.half().float()),
        cpu.pack_linear(weight, bits=8),
    ]
    for ours in packed:
        expected = F.linear(x.double(), _dequantised(ours).double())
        error = float((cpu.linear(x, ours) - expected).abs().max())
        if not error < TOLERANCE * num_in**0.5:
            raise SystemExit(f"{rows} × {num_in} → {num_out}: off by {error:.2e}; not timed")
    return [*(partial(cpu.linear, x, ours) for ours in packed), partial(F.linear, x, weight)]


def _dequantised(packed: PackedLinear) -> Tensor:
    """Weights [out, in] as the layer uses them."""
    weight = cpu.unpack(packed).weight
    return weight if packed.scale is None else weight * packed.scale[:, None]

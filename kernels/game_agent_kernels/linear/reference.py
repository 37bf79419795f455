"""Plain torch. Any device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

INT8_MAX = 127


@dataclass(frozen=True)
class PackedLinear:
    """A layer's weights as one implementation wants them; only that one knows the layout.

    weight: [out, in] or the implementation's own; int8 where there is a scale
    scale:  [out] float32, what the integers of each output are multiplied by, or None
    bias:   [out] or None
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None
    num_in: int
    num_out: int


def pack_linear(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    bits: int | None = None,
    dtype: torch.dtype | None = None,
) -> PackedLinear:
    """Pack ``weight`` [out, in] and ``bias`` [out]; the packed weight may share their memory.

    bits:  None keeps the weights' type; 8 rounds them to integers of -127 … 127 times one scale per
           output, the largest magnitude of its weights being 127
    dtype: of the bias, and of the rows that the layer will be given; None is the weights' own

    Raises ``ValueError`` for other bits and for shapes that do not belong together.
    """
    check_shapes(weight, bias)
    num_out, num_in = weight.shape
    if bits is None:
        return PackedLinear(weight.to(dtype or weight.dtype), None, bias, num_in, num_out)
    if bits != 8:
        raise ValueError(f"weights can be packed in 8 bits, not {bits}")
    largest = weight.float().abs().amax(1) if num_in else weight.new_zeros(num_out).float()
    # A weight that is not a number makes the scale, and so the output, not a number.
    scale = torch.where(largest == 0, 1.0, largest / INT8_MAX)
    return PackedLinear(_rounded(weight, scale), scale, bias, num_in, num_out)


def check_shapes(weight: Tensor, bias: Tensor | None) -> None:
    """Raises ``ValueError`` unless ``weight`` is [out, in] and ``bias`` [out] or None."""
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = f"{list(weight.shape)} and {None if bias is None else list(bias.shape)}"
        raise ValueError(f"weight and bias must be [out, in] and [out], not {shapes}")


def linear(x: Tensor, packed: PackedLinear) -> Tensor:
    """``x`` [rows, in] times the transposed weights, plus bias -> [rows, out] of x's dtype."""
    if packed.scale is None:
        return F.linear(x, packed.weight, packed.bias)
    out = F.linear(x, packed.weight.to(x.dtype)) * packed.scale.to(x.dtype)
    return out if packed.bias is None else out + packed.bias


def _rounded(weight: Tensor, scale: Tensor) -> Tensor:
    quotient = weight.float() / scale[:, None]
    return quotient.round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)

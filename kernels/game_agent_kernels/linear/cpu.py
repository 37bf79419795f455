"""Compiled, for float32 on the CPU; anything else goes to the reference.

Weights lie in panels of 16 outputs, [panels, in, 16]: one AVX-512 register holds the weights of one
input for 16 outputs, and a thread reads its panels from end to end. Weights that came from a
checkpoint of 16 bits are kept in 16 bits, since no number changes and a token of a reply reads half
as much memory: bfloat16 in [panels, in / 2, 16, 2], float16 in [panels, in, 16].
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from game_agent_kernels import _cpu, native
from game_agent_kernels.linear import reference
from game_agent_kernels.linear.reference import PackedLinear

PANEL_OUTPUTS = 16
# An extension that was built before float16 was known to it has no such name.
_KEEPS_FLOAT16: bool = getattr(_cpu, "HAS_FLOAT16_WEIGHTS", False)


def pack_linear(
    weight: Tensor, bias: Tensor | None = None, *, bits: int | None = None
) -> PackedLinear:
    """Same contract as the reference; float32 weights are copied."""
    packed = reference.pack_linear(weight, bias, bits=bits)
    if not native.takes(weight.contiguous(), bias):
        return packed
    panels = _to_panels(packed.weight)
    if packed.scale is None and packed.num_in % 2 == 0 and _is_bfloat16(panels):
        panels = panels.unflatten(1, (-1, 2)).transpose(2, 3).bfloat16().contiguous()
    elif packed.scale is None and _KEEPS_FLOAT16 and torch.equal(panels.half().float(), panels):
        panels = panels.half()
    return replace(packed, weight=panels)


def linear(x: Tensor, packed: PackedLinear) -> Tensor:
    """Same contract as the reference.

    A row's result does not depend on the other rows at all, with one exception: on the ``amx``
    instruction set 12 rows and more are added up in another order than fewer where weights are
    bfloat16.

    Raises ``ValueError`` when ``x`` is not [rows, in].
    """
    if packed.weight.ndim == 2:
        return reference.linear(x, packed)
    if not native.takes(x):
        return reference.linear(x, unpack(packed))
    if x.ndim != 2 or x.shape[1] != packed.num_in:
        raise ValueError(f"x must be [rows, {packed.num_in}] here, not {list(x.shape)}")
    out = x.new_empty(x.shape[0], packed.num_out)
    _cpu.linear(
        x.data_ptr(),
        packed.weight.data_ptr(),
        kind(packed),
        packed.scale.data_ptr() if packed.scale is not None else 0,
        packed.bias.data_ptr() if packed.bias is not None else 0,
        out.data_ptr(),
        x.shape[0],
        packed.num_in,
        packed.num_out,
    )
    return out


def unpack(packed: PackedLinear) -> PackedLinear:
    """The reference's form of panels."""
    panels = packed.weight
    if panels.ndim == 4:
        panels = panels.transpose(2, 3).flatten(1, 2)
    if packed.scale is None:
        panels = panels.float()
    return replace(packed, weight=panels.transpose(1, 2).flatten(0, 1)[: packed.num_out])


def kind(packed: PackedLinear) -> int:
    """What the extension calls a weight's type: its bits, and -16 for float16."""
    bits = 8 * packed.weight.itemsize
    return -bits if packed.weight.dtype == torch.float16 else bits


def _is_bfloat16(weight: Tensor) -> bool:
    """Whether rounding ``weight`` to bfloat16 would change no bit of it."""
    return not bool((weight.view(torch.int32) & 0xFFFF).any())


def _to_panels(weight: Tensor) -> Tensor:
    num_out, num_in = weight.shape
    num_panels = -(-num_out // PANEL_OUTPUTS)
    padded = F.pad(weight, (0, 0, 0, num_panels * PANEL_OUTPUTS - num_out))
    return padded.view(num_panels, PANEL_OUTPUTS, num_in).transpose(1, 2).contiguous()

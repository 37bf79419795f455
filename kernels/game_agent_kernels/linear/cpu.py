"""Compiled, for float32 on the CPU; anything else goes to the reference.

Weights lie in panels of 16 outputs, [panels, in, 16]: one AVX-512 register holds the weights of one
input for 16 outputs, and a thread reads its panels from end to end. Weights that came from a
checkpoint of 16 bits are kept in 16 bits, since no number changes and a token of a reply reads half
as much memory: bfloat16 in [panels, in / 2, 16, 2], float16 in [panels, in, 16].
"""

from __future__ import annotations

from collections.abc import Iterator
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
PIECE_WEIGHTS = 2**21


def pack_linear(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    bits: int | None = None,
    dtype: torch.dtype | None = None,
) -> PackedLinear:
    """Same contract as the reference; weights for float32 rows are copied, a piece at a time.

    So no more memory is taken than the packed weights and a few MiB.
    """
    reference.check_shapes(weight, bias)
    if not _takes(weight, bias, dtype or weight.dtype):
        return reference.pack_linear(weight, bias, bits=bits, dtype=dtype)
    num_out, num_in = weight.shape
    kept = torch.int8 if bits else _kept_dtype(weight)
    pairs = kept == torch.bfloat16  # of inputs lie side by side, and are moved as one number
    shape = (-(-num_out // PANEL_OUTPUTS), num_in // 2 if pairs else num_in, PANEL_OUTPUTS)
    panels = weight.new_empty(shape, dtype=torch.int32 if pairs else kept)
    scales, first = [], 0
    for rows in _pieces(weight):
        piece = reference.pack_linear(rows.float() if bits else rows.to(kept), bits=bits)
        part = _to_panels(piece.weight.view(torch.int32) if pairs else piece.weight)
        panels[first : first + len(part)] = part
        first += len(part)
        if piece.scale is not None:
            scales.append(piece.scale)
    if pairs:
        panels = panels.view(kept).unflatten(2, (PANEL_OUTPUTS, 2))
    scale = torch.cat(scales) if scales else None
    return PackedLinear(panels, scale, bias, num_in, num_out)


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
        kind(packed.weight),
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


def kind(weight: Tensor) -> int:
    """What the extension calls a weight's type: its bits, and -16 for float16."""
    bits = 8 * weight.itemsize
    return -bits if weight.dtype == torch.float16 else bits


def _takes(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> bool:
    """Whether the compiled layer can stand for these and rows of ``dtype``."""
    known = weight.is_cpu and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
    records = weight.requires_grad and torch.is_grad_enabled()  # see native.takes
    return known and dtype == torch.float32 and not records and native.takes(bias)


def _pieces(weight: Tensor) -> Iterator[Tensor]:
    """``weight`` cut into whole panels of PIECE_WEIGHTS numbers or a little more."""
    panels = -(-PIECE_WEIGHTS // max(PANEL_OUTPUTS * weight.shape[1], 1))
    return iter(weight.split(panels * PANEL_OUTPUTS))


def _kept_dtype(weight: Tensor) -> torch.dtype:
    """The narrowest type in which no number of ``weight`` changes, of those with a kernel."""
    has_pairs = weight.shape[1] > 0 and weight.shape[1] % 2 == 0  # in which bfloat16 lies
    if has_pairs and _fits(weight, torch.bfloat16):
        return torch.bfloat16
    if _KEEPS_FLOAT16 and _fits(weight, torch.float16):
        return torch.float16
    return torch.float32


def _fits(weight: Tensor, dtype: torch.dtype) -> bool:
    if weight.dtype == dtype:
        return True
    wide = (rows.float() for rows in _pieces(weight))
    return all(torch.equal(rows.to(dtype).float(), rows) for rows in wide)


def _to_panels(weight: Tensor) -> Tensor:
    """Numbers [out, in] as panels [panels, in, 16], not in memory of their own."""
    num_out, num_in = weight.shape
    num_panels = -(-num_out // PANEL_OUTPUTS)
    missing = num_panels * PANEL_OUTPUTS - num_out
    padded = F.pad(weight, (0, 0, 0, missing)) if missing else weight
    return padded.reshape(num_panels, PANEL_OUTPUTS, num_in).transpose(1, 2)

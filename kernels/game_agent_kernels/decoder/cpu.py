"""Compiled, for float32 on the CPU: all layers in one call (kernels/src/decoder.cpp).

A short pass costs more in going from operation to operation in Python than in the operations. The
same compiled kernels run in the same order, so the result is that of calling them one by one, to
the last bit: ``game_agent.model.decoder`` does that, and is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from game_agent_kernels import _cpu, native
from game_agent_kernels.linear.cpu import kind
from game_agent_kernels.linear.reference import PackedLinear
from game_agent_kernels.plan import PAGE_TOKENS, Plan
from game_agent_kernels.segment_attention.cpu import check_pages, schedule_for

MAX_DIM = 256
_Args = tuple[int, int, int, int, int, int]


class LayerTensors(Protocol):
    """One layer: norms [hidden], matrices as ``pack_linear`` of this backend made them."""

    input_norm: Tensor
    qkv: PackedLinear
    out: PackedLinear
    post_norm: Tensor
    gate_up: PackedLinear
    down: PackedLinear
    q_norm: Tensor | None
    k_norm: Tensor | None


class CompiledDecoder:
    """The layers of a decoder, ready to be run by one call."""

    def __init__(
        self,
        layers: Sequence[LayerTensors],
        norm: Tensor,
        head: PackedLinear,
        *,
        num_heads: int,
        num_kv_heads: int,
        eps: float,
        scale: float,
    ) -> None:
        self._held = (list(layers), norm, head)  # C++ knows their addresses only
        self._num_layers = len(layers)
        self._heads, self._kv_heads = num_heads, num_kv_heads
        self._dim = layers[0].qkv.num_out // (num_heads + 2 * num_kv_heads)
        self._vocab = head.num_out
        self._decoder = _cpu.Decoder(
            layers[0].qkv.num_in,
            layers[0].down.num_in,
            num_heads,
            num_kv_heads,
            self._dim,
            eps,
            scale,
        )
        for layer in layers:
            self._decoder.add_layer(
                layer.input_norm.data_ptr(),
                _linear_args(layer.qkv),
                _linear_args(layer.out),
                layer.post_norm.data_ptr(),
                _linear_args(layer.gate_up),
                _linear_args(layer.down),
                layer.q_norm.data_ptr() if layer.q_norm is not None else 0,
                layer.k_norm.data_ptr() if layer.k_norm is not None else 0,
            )
        self._decoder.set_head(norm.data_ptr(), _linear_args(head))

    def forward(
        self,
        residual: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
        plan: Plan,
        out_rows: Tensor,
        out_plan: Plan,
    ) -> Tensor:
        """Logits [len(out_rows), vocab] float32; ``residual`` is used up.

        residual: [rows, hidden] float32 embeddings; cos, sin: [rows, rotary_dim / 2] float32
        slots:    [rows] int64; keys, values: [layers, pages, ...], float32 or bfloat16
        out_rows: [n] int64, rising: the rows that the last layer finishes; out_plan: their plan

        Raises ``ValueError`` or ``TypeError`` for what does not fit, ``IndexError`` for slots or
        rows outside.
        """
        rows, half = cos.shape
        check_pages(keys[0], values[0])
        contiguous = keys.is_contiguous() and values.is_contiguous()
        if not native.takes(residual, cos, sin) or not contiguous:
            raise TypeError("the compiled decoder takes contiguous float32 in main memory only")
        if len(residual) != rows or slots.shape != (rows,) or sin.shape != cos.shape:
            raise ValueError(f"residual, sin and slots must have {rows} rows, as cos has")
        if slots.dtype != torch.int64 or out_rows.dtype != torch.int64:
            raise TypeError("slots and out_rows must be int64")
        num_pages = keys.shape[1]
        expected = (self._num_layers, num_pages, self._kv_heads, self._dim)
        if keys.shape[:4] != expected or values.shape[:3] != expected[:3]:
            raise ValueError(f"keys {list(keys.shape)} must be {[*expected, PAGE_TOKENS]}")
        shape = (self._heads, self._kv_heads, self._dim, num_pages)
        logits = residual.new_empty(len(out_rows), self._vocab)
        self._decoder.forward(
            residual.data_ptr(),
            rows,
            cos.data_ptr(),
            sin.data_ptr(),
            half,
            slots.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            keys[0].nbytes,
            keys.dtype == torch.bfloat16,
            num_pages,
            schedule_for(plan, rows, *shape),
            out_rows.data_ptr(),
            len(out_rows),
            schedule_for(out_plan, len(out_rows), *shape),
            logits.data_ptr(),
        )
        return logits


def compile_decoder(
    layers: Sequence[LayerTensors],
    norm: Tensor,
    head: PackedLinear,
    *,
    num_heads: int,
    num_kv_heads: int,
    eps: float,
    scale: float,
) -> CompiledDecoder | None:
    """The decoder of these weights, or None where they are not all float32 in main memory."""
    matrices = [m for x in layers for m in (x.qkv, x.out, x.gate_up, x.down)] + [head]
    vectors = [v for x in layers for v in (x.input_norm, x.post_norm, x.q_norm, x.k_norm)] + [norm]
    packed = all(m.weight.ndim > 2 and m.weight.is_cpu for m in matrices)
    if not layers or not packed or not native.takes(*vectors):
        return None
    return CompiledDecoder(
        layers,
        norm,
        head,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        eps=eps,
        scale=scale,
    )


def _linear_args(packed: PackedLinear) -> _Args:
    return (
        packed.weight.data_ptr(),
        kind(packed),
        packed.scale.data_ptr() if packed.scale is not None else 0,
        packed.bias.data_ptr() if packed.bias is not None else 0,
        packed.num_in,
        packed.num_out,
    )

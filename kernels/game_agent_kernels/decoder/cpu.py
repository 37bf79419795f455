"""Compiled, for float32 on the CPU: all layers in one call (kernels/src/decoder.cpp).

A short pass costs more in going from operation to operation in Python than in the operations. The
same compiled kernels run in the same order, so the result is that of calling them one by one, to
the last bit: ``game_agent.model.decoder`` does that, and is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from game_agent_kernels import _cpu, native
from game_agent_kernels.linear.cpu import kind
from game_agent_kernels.linear.reference import PackedLinear
from game_agent_kernels.plan import PAGE_TOKENS, Plan
from game_agent_kernels.sample.cpu import addresses
from game_agent_kernels.sample.draws import Draws
from game_agent_kernels.segment_attention.cpu import check_pages, schedule_for

MAX_DIM = 256
EMBEDDINGS = (torch.float32, torch.bfloat16, torch.float16)
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
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
        self._vocab, self._hidden = head.num_out, head.num_in
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
        if not native.takes(residual, cos, sin):
            raise TypeError("the compiled decoder takes contiguous float32 in main memory only")
        if len(residual) != rows or slots.shape != (rows,) or sin.shape != cos.shape:
            raise ValueError(f"residual, sin and slots must have {rows} rows, as cos has")
        if slots.dtype != torch.int64 or out_rows.dtype != torch.int64:
            raise TypeError("slots and out_rows must be int64")
        num_pages = keys.shape[1]
        shape = self._checked_shape(keys, values)
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

    def burst(
        self,
        tokens: Longs,
        slots: Longs,
        embedding: Tensor,
        cos: Floats,
        sin: Floats,
        keys: Tensor,
        values: Tensor,
        plan: Plan,
        draws: Draws,
        stops: Longs,
        news: npt.NDArray[np.int32],
        max_s: float,
    ) -> Longs:
        """Up to ``steps`` passes of a row for each run, whose drawn token is the next input.

        tokens:    [rows] int64, the first inputs; ``plan`` is of their pass, in which every run
                   sees its own frame as its last segment
        slots:     [steps, rows] int64
        embedding: [vocab, hidden], float32, bfloat16 or float16, contiguous
        cos, sin:  [positions, rotary_dim / 2] float32 of all positions that rows get to
        keys, values: as in :meth:`forward`
        draws:     of the rows; chances [steps, rows]
        stops:     int64 tokens after which no pass follows
        news:      [1] int32; no pass follows while it is not 0, which another thread may set
        max_s:     no pass follows that would likely end after so many seconds

        Returns tokens [passes, rows], at least one pass: they end with a stop, with news, in time,
        or with the last page of a frame. -1 stands where logits are no numbers; no pass follows.
        ``plan`` is used up. Raises as :meth:`forward`.
        """
        rows, num_pages = len(tokens), keys.shape[1]
        positions = plan.row_positions.astype(np.int64)
        arrays = (tokens, slots, stops)
        if any(a.dtype != np.int64 or not a.flags.c_contiguous for a in arrays):
            raise TypeError("tokens, slots and stops must be contiguous int64")
        if slots.ndim != 2 or not len(slots) or slots.shape[1] != rows or plan.num_runs != rows:
            raise ValueError(f"slots and plan must have {rows} rows, a run each, as tokens has")
        draws.check(*slots.shape)
        if news.dtype != np.int32 or not len(news):
            raise TypeError("news must be int32")
        if any(a.dtype != np.float32 or not a.flags.c_contiguous for a in (cos, sin)):
            raise TypeError("cos and sin must be contiguous float32")
        if embedding.dtype not in EMBEDDINGS or not embedding.is_contiguous():
            raise TypeError(
                f"embeddings must be contiguous and of a float type, not {embedding.dtype}"
            )
        if not embedding.is_cpu:
            raise TypeError("embeddings must be in main memory")
        if embedding.shape != (self._vocab, self._hidden):
            raise ValueError(
                f"embeddings {list(embedding.shape)} must be {[self._vocab, self._hidden]}"
            )
        if np.any(np.diff(plan.run_rows) != 1):
            raise ValueError("every run of the plan must have one row")
        if rows and (tokens.min() < 0 or tokens.max() >= len(embedding)):
            raise IndexError(f"a token is outside 0 … {len(embedding) - 1}")
        if rows and (positions.min() < 0 or positions.max() + len(slots) > len(cos)):
            raise IndexError("cos and sin do not reach as far as the rows")
        if cos.shape != sin.shape:
            raise ValueError("cos and sin must have one shape")
        shape = self._checked_shape(keys, values)
        out = np.empty((len(slots), rows), np.int64)
        passes = self._decoder.burst(
            schedule_for(plan, rows, *shape),
            rows,
            len(slots),
            max_s,
            tokens.ctypes.data,
            positions.ctypes.data,
            slots.ctypes.data,
            embedding.data_ptr(),
            kind(embedding),
            embedding.shape[1],
            self._vocab,
            cos.ctypes.data,
            sin.ctypes.data,
            cos.shape[1],
            keys.data_ptr(),
            values.data_ptr(),
            keys[0].nbytes,
            keys.dtype == torch.bfloat16,
            num_pages,
            addresses(draws),
            stops.ctypes.data,
            len(stops),
            news.ctypes.data,
            out.ctypes.data,
        )
        plan.derived.clear()
        return out[:passes]

    def _checked_shape(self, keys: Tensor, values: Tensor) -> tuple[int, int, int, int]:
        """(heads, KV heads, dim, pages). Raises where these are not this model's pages."""
        check_pages(keys[0], values[0])
        if not (keys.is_contiguous() and values.is_contiguous()):
            raise TypeError("the compiled decoder takes contiguous pages in main memory only")
        expected = (self._num_layers, keys.shape[1], self._kv_heads, self._dim)
        if keys.shape[:4] != expected or values.shape[:3] != expected[:3]:
            raise ValueError(f"keys {list(keys.shape)} must be {[*expected, PAGE_TOKENS]}")
        return (self._heads, self._kv_heads, self._dim, keys.shape[1])


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
        kind(packed.weight),
        packed.scale.data_ptr() if packed.scale is not None else 0,
        packed.bias.data_ptr() if packed.bias is not None else 0,
        packed.num_in,
        packed.num_out,
    )

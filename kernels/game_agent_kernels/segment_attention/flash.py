"""Flash attention of torch, for passes whose runs see their own frame only.

That is the encoding of blocks and the prefill in full mode: keys at consecutive positions from 0,
no distances. Their pages are gathered into flash attention's layout, which costs little beside a
long prefill. All else goes to another implementation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from game_agent_kernels.plan import PAGE_TOKENS, Ints, Plan, starts
from game_agent_kernels.segment_attention.worklist import LAUNCH

try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None

# Shorter passes lose more to the gathering than they gain.
MIN_ROWS = 128
KEY = "flash"
# Torch 2.11 does not let queries share keys here; later versions do when asked.
_SHARES_KEYS = "enable_gqa" in inspect.signature(varlen_attn).parameters


@dataclass(frozen=True)
class Layout:
    """Keys of all runs one after another: where they lie, and where each run's rows and keys begin.

    slots: [keys] int64, page * PAGE_TOKENS + place; run_rows, run_keys: [runs + 1] int32
    """

    slots: npt.NDArray[np.int64]
    run_rows: Ints
    run_keys: Ints


def before(fallback: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``segment_attention`` by flash attention where it fits, by ``fallback`` otherwise."""

    def segment_attention(
        q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, scale: float
    ) -> Tensor:
        """Same contract as the reference."""
        unfit = not q.is_cuda or q.dtype == torch.float32 or q.shape[2] % 8 or len(q) < MIN_ROWS
        if unfit or LAUNCH in plan.derived:
            return fallback(q, k_pages, v_pages, plan, scale)
        if KEY not in plan.derived:
            layout = lay_out(plan)
            plan.derived[KEY] = None if layout is None else _Flash(layout, q.device)
        flash = plan.derived[KEY]
        if not isinstance(flash, _Flash):
            return fallback(q, k_pages, v_pages, plan, scale)
        return flash.attend(q, k_pages, v_pages, scale)

    return segment_attention


def lay_out(plan: Plan) -> Layout | None:
    """The plan as flash attention sees it, or None where it does not fit.

    Flash attention's causal mask puts the last row over the last key, so each run's keys end at
    its last row.
    """
    seg = plan.segments
    if np.any(seg.sin) or np.any(seg.cos != 1) or not np.all(np.diff(plan.run_segments)):
        return None
    slots = []
    for run in range(plan.num_runs):
        first, last = plan.run_segments[run], plan.run_segments[run + 1]
        positions = plan.row_positions[plan.run_rows[run] : plan.run_rows[run + 1]]
        lengths = seg.lengths[first:last]
        chained = np.array_equal(seg.positions[first:last], starts(lengths)[:-1])
        num_keys = int(positions[-1]) + 1 if len(positions) else 0
        if not chained or num_keys > lengths.sum() or np.any(np.diff(positions) != 1):
            return None
        slots.append(_key_slots(plan, int(first), int(last))[:num_keys])
    return Layout(np.concatenate(slots), plan.run_rows, starts([len(part) for part in slots]))


def _key_slots(plan: Plan, first: int, last: int) -> npt.NDArray[np.int64]:
    """Slots of all keys of segments [first, last)."""
    seg = plan.segments
    of = np.repeat(np.arange(first, last), seg.lengths[first:last])
    places = np.arange(len(of)) - starts(seg.lengths[first:last])[of - first]
    pages = seg.pages[seg.page_starts[of] + places // PAGE_TOKENS].astype(np.int64)
    return pages * PAGE_TOKENS + places % PAGE_TOKENS


class _Flash:
    """A layout on its device."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        slots = torch.from_numpy(layout.slots).to(device)
        self._page, self._place = slots // PAGE_TOKENS, slots % PAGE_TOKENS
        self._run_rows = torch.from_numpy(layout.run_rows).to(device)
        self._run_keys = torch.from_numpy(layout.run_keys).to(device)
        self._max_rows = int(np.diff(layout.run_rows).max())
        self._max_keys = int(np.diff(layout.run_keys).max())

    def attend(self, q: Tensor, k_pages: Tensor, v_pages: Tensor, scale: float) -> Tensor:
        keys = k_pages[self._page, :, :, self._place]
        values = v_pages[self._page, :, self._place]
        tables = (self._run_rows, self._run_keys, self._max_rows, self._max_keys)
        if flash_attn_varlen_func is not None:
            out: Tensor = flash_attn_varlen_func(
                q, keys, values, *tables, softmax_scale=scale, causal=True
            )
            return out
        options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}
        if _SHARES_KEYS:
            options["enable_gqa"] = True
        else:
            group = q.shape[1] // keys.shape[1]
            keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        attended = varlen_attn(q, keys, values, *tables, **options)
        assert isinstance(attended, Tensor)  # a tuple only where more is asked for
        return attended

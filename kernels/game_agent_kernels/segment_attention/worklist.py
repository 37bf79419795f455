"""A plan's division into work for a GPU: key tiles, row tiles, and evenly long items of both.

Plain arrays, so that it is tested without a GPU. All tables travel as one array of 32-bit words: a
header, which says where each table begins, then

items:  [I, 5] first row, number of rows, first and last key tile, partial result (-1: writes the
        output itself)
rows:   [T, 4] frame position, first partial result, number of them, place in the row tile
tiles:  [N, 3 + keys / PAGE_TOKENS] segment, number of keys, frame position of the first, pages
angles: [S, 2, rotary_dim / 2] float32 cos and sin of each segment's distance
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from game_agent_kernels.plan import PAGE_TOKENS, Floats, Ints, Plan, starts

# Where a plan's ``derived`` holds its Launch.
LAUNCH = "launch"
HEADER_WORDS = 8
ITEM_WORDS = 5
ROW_WORDS = 4
# Fewer keys than these are not worth a partial result of their own.
MIN_ITEM_KEYS = 128

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tiling:
    """Sizes of the kernel's tiles, and how finely the keys are divided.

    packed: queries of one tile: rows times the heads that share a KV head, a power of two ≥ 16
    rows:   whole rows that fit it
    keys:   keys of one tile
    wanted: items to aim at, so that they fill the GPU once for all KV heads together
    """

    packed: int
    rows: int
    keys: int
    wanted: int

    @property
    def tile_words(self) -> int:
        return 3 + self.keys // PAGE_TOKENS


@dataclass(frozen=True)
class WorkList:
    """The tables of one plan; the module says what their columns are."""

    items: Ints
    rows: Ints
    tiles: Ints
    angles: Floats
    num_partials: int

    @property
    def num_words(self) -> int:
        """Length of the tables without their header."""
        return sum(int(part.size) for part in (self.items, self.rows, self.tiles, self.angles))

    def write(self, words: Ints, header: int, tables: int) -> int:
        """Lay header and tables out in ``words`` at these places; returns where the tables end.

        Places in the header are counted from the header itself.
        """
        parts = (self.items, self.rows, self.tiles, self.angles.view(np.int32))
        words[header] = len(self.items)
        for i, part in enumerate(parts):
            words[header + 1 + i] = tables - header
            words[tables : tables + part.size] = part.reshape(-1)
            tables += int(part.size)
        return tables


@dataclass(frozen=True)
class Launch:
    """What a kernel needs to run a work list that lies on its device.

    words:        int32, from the header on
    num_items, num_partials: of the list, or at most (a captured graph's grid does not change)
    rotates, merges: whether any distance is not 0, whether any row has partial results
    """

    words: Tensor
    tiling: Tiling
    num_items: int
    num_partials: int
    rotates: bool
    merges: bool


def tiling_for(
    rows: int,
    keys: float,
    *,
    heads: int,
    kv_heads: int,
    dim: int,
    dtype: torch.dtype,
    processors: int,
) -> Tiling:
    """Sizes for runs of at most ``rows`` rows over segments of ``keys`` keys on average.

    dim: head dim; processors: streaming multiprocessors of the GPU. Float32 has no tensor cores:
    its products are unrolled, and larger tiles would take minutes to compile.
    """
    group = heads // kv_heads
    exact = dtype == torch.float32
    largest = 32 if exact else 64 if dim > 128 else 128
    packed = next((n for n in (16, 64) if rows * group <= n <= largest), largest)
    packed = max(packed, 1 << (group - 1).bit_length())
    return Tiling(
        packed=packed,
        rows=packed // group,
        keys=32 if exact or dim > 128 or keys < 48 else 64,
        wanted=max(2 * processors // kv_heads, 1),
    )


@cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; a small number for the interpreter on a CPU."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def divide(plan: Plan, tiling: Tiling) -> WorkList:
    """Cut ``plan`` into items of about equally many key tiles."""
    seg = plan.segments
    counts = -(-seg.lengths // tiling.keys)
    tiles = _tiles(plan, tiling, counts)
    run_tiles = starts(counts)[plan.run_segments].astype(np.int64)
    unit_run, unit_row, unit_rows = _row_tiles(plan, tiling)
    begin = run_tiles[unit_run]
    last_rows = plan.row_positions[unit_row + unit_rows - 1]
    work = _visible_ends(tiles[:, 2], run_tiles, unit_run, last_rows) - begin
    share = max(-(-int(work.sum()) // tiling.wanted), MIN_ITEM_KEYS // tiling.keys)
    splits = -(-work // share)
    items, num_partials, first_partial = _items(unit_row, unit_rows, begin, work, splits)
    unit_of_row = np.repeat(np.arange(len(unit_row)), unit_rows)
    places = np.arange(plan.num_rows) - unit_row[unit_of_row]
    columns = (plan.row_positions, first_partial[unit_of_row], splits[unit_of_row], places)
    return WorkList(
        items=items,
        rows=np.stack(columns, 1).astype(np.int32),
        tiles=tiles,
        angles=np.stack([seg.cos, seg.sin], 1),
        num_partials=num_partials,
    )


def _tiles(plan: Plan, tiling: Tiling, counts: Ints) -> Ints:
    """All segments' key tiles [N, tile_words], in order."""
    seg = plan.segments
    of = np.repeat(np.arange(seg.num_segments), counts)
    number = np.arange(len(of)) - starts(counts)[of]
    per_tile = tiling.keys // PAGE_TOKENS
    tiles = np.empty((len(of), tiling.tile_words), np.int32)
    tiles[:, 0] = of
    tiles[:, 1] = np.minimum(seg.lengths[of] - number * tiling.keys, tiling.keys)
    tiles[:, 2] = seg.positions[of] + number * tiling.keys
    places = (seg.page_starts[of] + number * per_tile)[:, None] + np.arange(per_tile)
    # A last tile may have fewer pages. The segment's last one stands in for them: its number is
    # read, its keys are not read again.
    tiles[:, 3:] = seg.pages[np.minimum(places, seg.page_starts[of + 1][:, None] - 1)]
    return tiles


def _row_tiles(plan: Plan, tiling: Tiling) -> tuple[Longs, Longs, Longs]:
    """(run, first row, number of rows) of each row tile; no tile crosses the border of a run."""
    counts = np.diff(plan.run_rows)
    num_tiles = -(-counts // tiling.rows)
    run = np.repeat(np.arange(plan.num_runs), num_tiles)
    number = np.arange(len(run)) - starts(num_tiles)[run]
    first = plan.run_rows[run] + number * tiling.rows
    return run, first, np.minimum(plan.run_rows[run + 1] - first, tiling.rows)


def _visible_ends(positions: Ints, run_tiles: Longs, unit_run: Longs, last_rows: Ints) -> Longs:
    """One past the last key tile that each row tile's last row sees any of."""
    run_of_tile = np.repeat(np.arange(len(run_tiles) - 1), np.diff(run_tiles))
    # The run above the position in one number: later runs are larger, so that one reversed running
    # minimum serves all runs and leaves a sorted array to look places up in.
    order = (run_of_tile.astype(np.int64) << 32) + np.maximum(positions, -1) + 1
    order = np.minimum.accumulate(order[::-1])[::-1]
    return np.searchsorted(order, (unit_run << 32) + last_rows + 1, side="right")


def _items(
    unit_row: Longs, unit_rows: Longs, begin: Longs, work: Longs, splits: Longs
) -> tuple[Ints, int, Longs]:
    """(items, number of partial results, first one of each row tile).

    The longest items come first, and of those equally long the ones that read the same keys stand
    together: they run at the same time, and all but one find them in the second-level cache.
    """
    partials = np.where(splits > 1, splits, 0)
    first_partial = np.cumsum(partials) - partials
    of = np.repeat(np.arange(len(splits)), splits)
    number = np.arange(len(of)) - starts(splits)[of]
    first = begin[of] + work[of] * number // splits[of]
    last = begin[of] + work[of] * (number + 1) // splits[of]
    partial = np.where(splits[of] > 1, first_partial[of] + number, -1)
    columns = (unit_row[of], unit_rows[of], first, last, partial)
    items = np.stack(columns, 1).astype(np.int32)
    return items[np.lexsort((first, first - last))], int(partials.sum()), first_partial

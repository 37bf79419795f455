"""A plan's division into work for a GPU: key tiles, tiles of queries, and evenly long items.

Plain arrays, so that it is tested without a GPU. All tables travel as one array of 32-bit words: a
header, which says where each table begins, then

items:   [I, 5] first query, number of them, first and last key tile, and which of its queries'
         partial results it makes (DIRECT: it writes the output itself)
queries: [Q, 4] row, its frame position, angles that turn it first (-1: none), first partial result.
         A row is a query of every group of runs that it belongs to (``groups.py``)
rows:    [T, 2] first partial result and number of them (DIRECT: the output is written already)
tiles:   [N, 3 + keys / PAGE_TOKENS] angles, number of keys, frame position of the first, pages
angles:  [A, 2, rotary_dim / 2] float32 cos and sin: of segments' distances, then of turns
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from game_agent_kernels.plan import PAGE_TOKENS, Floats, Ints, Plan, starts
from game_agent_kernels.segment_attention.groups import Groups, Longs, groups_of, ranges

# Where a plan's ``derived`` holds its Launch.
LAUNCH = "launch"
HEADER_WORDS = 8
ITEM_WORDS = 5
QUERY_WORDS = 4
ROW_WORDS = 2
DIRECT = -1
# Queries of the smallest tile, which items of few queries take in every launch.
SMALL_TILE = 16
# Fewer keys than these are not worth a partial result of their own.
MIN_ITEM_KEYS = 128


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
    """The tables of one plan; the module says what their columns are.

    last_tiles: [S] the last tile of each of the plan's segments; -1: it has none, or is shared
    """

    items: Ints
    queries: Ints
    rows: Ints
    tiles: Ints
    angles: Floats
    num_partials: int
    turns: bool
    last_tiles: Longs

    @property
    def num_words(self) -> int:
        """Length of the tables without their header."""
        return sum(int(part.size) for part in self._parts)

    @property
    def _parts(self) -> tuple[Ints, ...]:
        return self.items, self.queries, self.rows, self.tiles, self.angles.view(np.int32)

    def write(self, words: Ints, header: int, tables: int) -> int:
        """Lay header and tables out in ``words`` at these places; returns where the tables end.

        Places in the header are counted from the header itself.
        """
        words[header] = len(self.items)
        for i, part in enumerate(self._parts):
            words[header + 1 + i] = tables - header
            words[tables : tables + part.size] = part.reshape(-1)
            tables += int(part.size)
        return tables


@dataclass(frozen=True)
class Launch:
    """What a kernel needs to run a work list that lies on its device.

    words:        int32, from the header on
    num_items, num_partials: of the list, or at most (a captured graph's grid does not change)
    rotates, turns, merges: whether any distance is not 0, any query is turned before, any row has
        partial results or none
    """

    words: Tensor
    tiling: Tiling
    num_items: int
    num_partials: int
    rotates: bool
    turns: bool
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


def divide(plan: Plan, tiling: Tiling, groups: Groups | None = None) -> WorkList:
    """Cut ``plan`` into items of about equally many key tiles.

    groups: who reads what together, if not as :func:`groups_of` finds it
    """
    groups = groups_of(plan) if groups is None else groups
    seg = plan.segments
    tile_counts = -(-seg.lengths[groups.segments] // tiling.keys)
    tiles = _tiles(plan, groups.segments, tiling, tile_counts)
    group_tiles = starts(tile_counts)[groups.segment_starts].astype(np.int64)
    units = _units(groups.row_starts, tiling)
    positions = plan.row_positions[groups.rows]
    highest = np.maximum.reduceat(positions, units.first) if len(units.first) else positions
    begin = group_tiles[units.group]
    work = _visible_ends(tiles[:, 2], group_tiles, units.group, highest) - begin
    share = max(-(-int(work.sum()) // tiling.wanted), MIN_ITEM_KEYS // tiling.keys)
    splits = -(-work // share)
    direct, first_partial, rows = _partials(groups.rows, units, splits, plan.num_rows)
    last_tiles = np.full(seg.num_segments, -1)
    last_tiles[groups.segments] = np.cumsum(tile_counts) - 1
    last_tiles[~groups.own | (seg.lengths == 0)] = -1
    turns = np.where(groups.turns < 0, -1, groups.turns + len(groups.segments))
    return WorkList(
        items=_items(units, begin, work, splits, direct),
        queries=np.stack([groups.rows, positions, turns, first_partial], 1).astype(np.int32),
        rows=rows,
        tiles=tiles,
        angles=_angles(plan, groups),
        num_partials=int(rows[:, 1].clip(0).sum()),
        turns=len(groups.cos) > 0,
        last_tiles=last_tiles,
    )


@dataclass(frozen=True)
class _Units:
    """Row tiles: what group each is of, its first query, and how many queries it has."""

    group: Longs
    first: Longs
    count: Longs


def _units(row_starts: Ints, tiling: Tiling) -> _Units:
    """No row tile crosses the border of a group."""
    counts = np.diff(row_starts)
    num_tiles = -(-counts // tiling.rows)
    group = np.repeat(np.arange(len(counts)), num_tiles)
    first = ranges(np.zeros(len(counts), np.int64), num_tiles) * tiling.rows + row_starts[group]
    return _Units(group, first, np.minimum(row_starts[group + 1] - first, tiling.rows))


def _tiles(plan: Plan, segments: Longs, tiling: Tiling, counts: Ints) -> Ints:
    """Key tiles [N, tile_words] of the segments listed, in order."""
    seg = plan.segments
    place = np.repeat(np.arange(len(segments)), counts)
    of = segments[place]
    number = ranges(np.zeros(len(counts), np.int64), counts)
    per_tile = tiling.keys // PAGE_TOKENS
    tiles = np.empty((len(of), tiling.tile_words), np.int32)
    tiles[:, 0] = place
    tiles[:, 1] = np.minimum(seg.lengths[of] - number * tiling.keys, tiling.keys)
    tiles[:, 2] = seg.positions[of] + number * tiling.keys
    places = (seg.page_starts[of] + number * per_tile)[:, None] + np.arange(per_tile)
    # A last tile may have fewer pages. The segment's last one stands in for them: its number is
    # read, its keys are not read again.
    tiles[:, 3:] = seg.pages[np.minimum(places, seg.page_starts[of + 1][:, None] - 1)]
    return tiles


def _angles(plan: Plan, groups: Groups) -> Floats:
    """[L + X, 2, half] those of the segments listed, then those that turn rows before."""
    seg, count = plan.segments, len(groups.segments)
    angles = np.empty((count + len(groups.cos), 2, seg.cos.shape[1]), np.float32)
    angles[:count, 0], angles[:count, 1] = seg.cos[groups.segments], seg.sin[groups.segments]
    angles[count:, 0], angles[count:, 1] = groups.cos, groups.sin
    return angles


def _visible_ends(positions: Ints, group_tiles: Longs, of_unit: Longs, highest: Ints) -> Longs:
    """One past the last key tile that each row tile's highest position sees any of."""
    group_of_tile = np.repeat(np.arange(len(group_tiles) - 1), np.diff(group_tiles))
    # The group above the position in one number: later groups are larger, so that one reversed
    # running minimum serves all of them and leaves a sorted array to look places up in.
    order = (group_of_tile.astype(np.int64) << 32) + np.maximum(positions, -1) + 1
    order = np.minimum.accumulate(order[::-1])[::-1]
    return np.searchsorted(order, (of_unit << 32) + highest + 1, side="right")


def _partials(
    rows: Longs, units: _Units, splits: Longs, num_rows: int
) -> tuple[npt.NDArray[np.bool_], Longs, Ints]:
    """(which units write the output themselves, first partial result of each query, row table).

    A unit does that if nothing else attends for any of its rows. All partial results of a row
    follow on each other, whichever units they come from.
    """
    of = np.repeat(np.arange(len(units.count)), units.count)
    parts = np.bincount(rows, weights=splits[of], minlength=num_rows)
    most = np.maximum.reduceat(parts[rows], units.first) if len(of) else splits
    direct = (splits == 1) & (most == 1)
    kept = np.where(direct[of], 0, splits[of])
    order = np.argsort(rows, kind="stable")
    before = np.cumsum(kept[order]) - kept[order]
    first = np.empty(len(rows), np.int64)
    first[order] = before
    counts = np.bincount(rows, weights=kept, minlength=num_rows).astype(np.int64)
    table = np.stack([np.cumsum(counts) - counts, counts], 1).astype(np.int32)
    table[rows[direct[of]], 1] = DIRECT
    return direct, first, table


def _items(
    units: _Units, begin: Longs, work: Longs, splits: Longs, direct: npt.NDArray[np.bool_]
) -> Ints:
    """The longest items first, and of those equally long the ones that read the same keys together.

    So they run at the same time, and all but one find the keys in the second-level cache.
    """
    of = np.repeat(np.arange(len(splits)), splits)
    number = ranges(np.zeros(len(splits), np.int64), splits)
    first = begin[of] + work[of] * number // splits[of]
    last = begin[of] + work[of] * (number + 1) // splits[of]
    number = np.where(direct[of], DIRECT, number)
    items = np.stack([units.first[of], units.count[of], first, last, number], 1).astype(np.int32)
    return items[np.lexsort((first, first - last))]

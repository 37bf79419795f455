"""Which runs of a plan read the same keys, so that a kernel can read them once for all.

A *group* is some runs and the segments that just these runs read, laid out alike: the distances of
two runs to its segments differ by one number. The rule is that of the compiled CPU kernels, which
do not ask for the last. What no group has is left to its run alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from game_agent_kernels.plan import PAGE_TOKENS, Floats, Ints, Plan, starts

Longs = npt.NDArray[np.int64]

# Longer runs use a key many times as it is.
MAX_ROWS = 16
# A row's results over a group are merged with its others; fewer pages are not worth that.
MIN_PAGES = 8
# Those that save most are kept.
MAX_GROUPS = 16
# Where a plan's ``derived`` holds its groups.
GROUPS = "groups"
_NOT_READ = np.int64(2**62)


@dataclass(frozen=True)
class Groups:
    """G groups over Q rows and L segments; the last ones are the runs with what is theirs alone.

    row_starts [G + 1], rows [Q]: packed rows of each group
    segment_starts [G + 1], segments [L]: what they read, told by the first run's segments
    turns [Q]: the angles that turn a row to where the group's first run stands; -1: it stands there
    cos, sin [X, rotary_dim / 2]: those angles
    own [S]: which segments of the plan a run reads alone
    """

    row_starts: Ints
    rows: Longs
    segment_starts: Ints
    segments: Longs
    turns: Longs
    cos: Floats
    sin: Floats
    own: npt.NDArray[np.bool_]

    @property
    def most_rows(self) -> int:
        """Rows of the largest group."""
        return int(np.diff(self.row_starts).max(initial=0))

    def with_run(self, num_rows: int) -> Groups:
        """The same and one more run, which reads nothing."""
        last = int(self.rows.max(initial=-1)) + 1
        return replace(
            self,
            row_starts=np.append(self.row_starts, self.row_starts[-1] + np.int32(num_rows)),
            rows=np.append(self.rows, np.arange(last, last + num_rows)),
            segment_starts=np.append(self.segment_starts, self.segment_starts[-1]),
            turns=np.append(self.turns, np.full(num_rows, -1)),
        )


def groups_of(plan: Plan) -> Groups:
    """The plan's groups, found once and kept with the plan, which must have been checked."""
    known = plan.derived.get(GROUPS)
    if isinstance(known, Groups):
        return known
    groups = group_runs(plan)
    plan.derived[GROUPS] = groups
    return groups


def ungrouped(plan: Plan) -> Groups:
    """Every run alone."""
    half = plan.segments.cos.shape[1]
    none = np.empty((0, half), np.float32)
    return Groups(
        row_starts=plan.run_rows,
        rows=np.arange(plan.num_rows),
        segment_starts=plan.run_segments,
        segments=np.arange(plan.segments.num_segments),
        turns=np.full(plan.num_rows, -1),
        cos=none,
        sin=none,
        own=np.ones(plan.segments.num_segments, bool),
    )


def group_runs(plan: Plan) -> Groups:
    """Find the segments that several runs read, and the groups of runs that read them."""
    alone = ungrouped(plan)
    table = _read_by_several(plan)
    shared = list(_groups(plan, table))
    if not shared:
        return alone
    own = alone.own
    rows, turns, segments = [], [], []
    turned = [alone.cos.astype(np.complex128)]
    num_turns = 0
    for readers in shared:
        own[readers[readers >= 0]] = False
        runs = np.flatnonzero(readers[0] >= 0)
        counts = np.diff(plan.run_rows)[runs]
        angles, turn = _turns(plan, readers[0, runs])
        turned.append(angles)
        rows.append(ranges(plan.run_rows[runs], counts))
        turns.append(np.repeat(np.where(turn < 0, -1, turn + num_turns), counts))
        segments.append(readers[:, runs[0]])
        num_turns += len(angles)
    own_starts = np.concatenate([[0], np.cumsum(own)])[plan.run_segments]
    angles = np.concatenate(turned)
    return Groups(
        row_starts=_joined_starts(rows, plan.run_rows),
        rows=np.concatenate([*rows, alone.rows]),
        segment_starts=_joined_starts(segments, own_starts),
        segments=np.concatenate([*segments, np.flatnonzero(own)]),
        turns=np.concatenate([*turns, alone.turns]),
        cos=angles.real.astype(np.float32),
        sin=angles.imag.astype(np.float32),
        own=own,
    )


def _joined_starts(parts: list[Longs], then: npt.NDArray[np.integer]) -> Ints:
    """Where each of ``parts`` begins, and behind them what begins at ``then``."""
    begins = starts([len(part) for part in parts])
    return np.concatenate([begins[:-1], begins[-1] + then]).astype(np.int32)


def ranges(first: npt.ArrayLike, counts: npt.ArrayLike) -> Longs:
    """``first[i], first[i] + 1, …``, ``counts[i]`` of them, one after another."""
    counts = np.asarray(counts)
    shift = np.asarray(first) - starts(counts)[:-1]
    return np.arange(int(counts.sum())) + np.repeat(shift, counts)


def _run_of_segment(plan: Plan) -> Longs:
    return np.repeat(np.arange(plan.num_runs), np.diff(plan.run_segments))


def _read_by_several(plan: Plan) -> Longs:
    """``[U, R]`` for each segment that several runs read whole: each run's segment of it, or -1."""
    seg = plan.segments
    run_of = _run_of_segment(plan)
    some = np.flatnonzero(_may_be_shared(plan, run_of))
    if plan.num_runs < 2 or not len(some):
        return np.empty((0, plan.num_runs), np.int64)
    page = seg.pages[seg.page_starts[some]]
    # Of all that begin with the same page the first one, since the last that is written stays.
    first_with = np.empty(int(page.max()) + 1, np.int64)
    first_with[page[::-1]] = some[::-1]
    first = first_with[page]
    alike = (
        (first != some)
        & (seg.lengths[first] == seg.lengths[some])
        & (seg.positions[first] == seg.positions[some])
    )
    some, first = some[alike], first[alike]
    alike = _same_pages(plan, first, some)
    some, first = some[alike], first[alike]
    is_told = np.zeros(seg.num_segments, bool)
    is_told[first] = True
    told = np.flatnonzero(is_told)
    number = np.empty(seg.num_segments, np.int64)
    number[told] = np.arange(len(told))
    table = np.full((len(told), plan.num_runs), -1)
    # Backwards, so that of a run that reads the same pages twice the first time counts.
    table[number[first[::-1]], run_of[some[::-1]]] = some[::-1]
    table[number[told], run_of[told]] = told
    return table


def _may_be_shared(plan: Plan, run_of: Longs) -> npt.NDArray[np.bool_]:
    """Segments of short runs whose first row, and so every row, sees all of their keys."""
    seg = plan.segments
    counts = np.diff(plan.run_rows)
    short = (counts > 0) & (counts <= MAX_ROWS)
    lowest = np.zeros(plan.num_runs, np.int32)
    lowest[short] = plan.row_positions[plan.run_rows[:-1][short]]
    seen = lowest[run_of] + 1 - seg.positions >= seg.lengths
    return short[run_of] & seen & (seg.lengths > 0)


def _same_pages(plan: Plan, a: Longs, b: Longs) -> npt.NDArray[np.bool_]:
    """Whether segments ``a[i]`` and ``b[i]``, equally long, hold the same pages."""
    seg = plan.segments
    counts = -(-seg.lengths[a] // PAGE_TOKENS)
    places = ranges(seg.page_starts[a], counts)
    shift = np.repeat(seg.page_starts[b] - seg.page_starts[a], counts)
    wrong = np.flatnonzero(seg.pages[places] != seg.pages[places + shift])
    same = np.ones(len(a), bool)
    same[np.searchsorted(starts(counts), wrong, side="right") - 1] = False
    return same


def _groups(plan: Plan, table: Longs) -> Iterator[Longs]:
    """The rows of ``table`` that belong together, those first that save most; few are left out."""
    if not len(table):
        return
    pages = -(-plan.segments.lengths[table.max(1)] // PAGE_TOKENS)
    parts = _laid_out_alike(plan, table)
    num_pages = np.array([int(pages[part].sum()) for part in parts])
    num_runs = np.array([int((table[part[0]] >= 0).sum()) for part in parts])
    worth = (num_runs - 1) * num_pages
    for i in np.argsort(-worth, kind="stable")[:MAX_GROUPS]:
        if num_pages[i] >= MIN_PAGES and num_runs[i] > 1:
            yield table[parts[i]]


def _laid_out_alike(plan: Plan, table: Longs) -> list[Longs]:
    """Numbers of the rows of ``table`` with equal readers, at distances that differ alike."""
    distances = plan.segments.distances.astype(np.int64)
    reads = table >= 0
    first = distances[table[np.arange(len(table)), reads.argmax(1)]]
    layout = np.where(reads, distances[table] - first[:, None], _NOT_READ)
    # Neighbours are mostly alike, so that few layouts have to be looked up.
    differs = np.any(layout[1:] != layout[:-1], 1)
    cuts = [0, *(np.flatnonzero(differs) + 1).tolist(), len(table)]
    found: dict[bytes, list[Longs]] = {}
    for begin, end in pairwise(cuts):
        found.setdefault(layout[begin].tobytes(), []).append(np.arange(begin, end))
    return [np.concatenate(stretches) for stretches in found.values()]


def _turns(plan: Plan, segments: Longs) -> tuple[npt.NDArray[np.complex128], Longs]:
    """cos + i sin ``[X, rotary_dim / 2]`` of each distance less the first, and who has which.

    Those that stand where the first one stands have -1.
    """
    seg = plan.segments
    away = seg.distances[segments] != seg.distances[segments[0]]
    of_turn = np.where(away, np.cumsum(away) - 1, -1)
    far = segments[away]
    angles = seg.cos[far] + 1j * seg.sin[far].astype(np.float64)
    first = seg.cos[segments[0]] - 1j * seg.sin[segments[0]].astype(np.float64)
    return np.asarray(angles * first, np.complex128), of_turn

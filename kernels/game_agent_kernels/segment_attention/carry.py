"""From one token of some replies to the next: what of a plan's groups and work list still holds.

Seeing that takes a fraction of the time of making them anew.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from game_agent_kernels.plan import PAGE_TOKENS, Plan
from game_agent_kernels.segment_attention.groups import GROUPS, Groups
from game_agent_kernels.segment_attention.worklist import WorkList


def carry_groups(before: Plan, plan: Plan) -> None:
    """Give ``plan`` the groups of the step before where they still hold.

    So they do when only segments that are read alone have grown.
    """
    groups = before.derived.get(GROUPS)
    if isinstance(groups, Groups) and not groups.own.all() and _still_hold(groups, before, plan):
        plan.derived[GROUPS] = groups


def _still_hold(groups: Groups, before: Plan, plan: Plan) -> bool:
    old, new = before.segments, plan.segments
    if not (
        np.array_equal(before.run_rows, plan.run_rows)
        and np.array_equal(before.run_segments, plan.run_segments)
        and np.all(before.row_positions <= plan.row_positions)
    ):
        return False
    pairs = (
        (old.lengths, new.lengths),
        (old.positions, new.positions),
        (old.distances, new.distances),
    )
    if not all(np.all((a == b) | groups.own) for a, b in pairs):
        return False
    if _same_pages(before, plan):
        return True
    shared = ~groups.own
    old_pages, new_pages = (
        seg.pages[np.repeat(shared, np.diff(seg.page_starts))] for seg in (old, new)
    )
    return np.array_equal(old_pages, new_pages)


def carry_work(work: WorkList, before: Plan, plan: Plan) -> WorkList | None:
    """The work list of ``plan`` by that of ``before``; None where it has to be made anew.

    It holds while every row sees all keys of its segments, and those that have grown are read
    alone and still end in the same page and key tile.
    """
    old, new = before.segments, plan.segments
    alike = (
        (before.run_rows, plan.run_rows),
        (before.run_segments, plan.run_segments),
        (old.positions, new.positions),
        (old.distances, new.distances),
    )
    if not (_same_pages(before, plan) and all(np.array_equal(a, b) for a, b in alike)):
        return None
    grown = np.flatnonzero(old.lengths != new.lengths)
    last = work.last_tiles[grown]
    if np.any(last < 0) or not (_sees_all(before) and _sees_all(plan)):
        return None
    counts = work.tiles[last, 1] + new.lengths[grown] - old.lengths[grown]
    room = (work.tiles.shape[1] - 3) * PAGE_TOKENS
    if np.any((counts < 1) | (counts > room)):
        return None
    tiles, queries = work.tiles.copy(), work.queries.copy()
    tiles[last, 1] = counts
    queries[:, 1] = plan.row_positions[queries[:, 0]]
    return replace(work, tiles=tiles, queries=queries)


def _same_pages(before: Plan, plan: Plan) -> bool:
    """Whether no segment has a page more, or another."""
    old, new = before.segments, plan.segments
    return np.array_equal(old.page_starts, new.page_starts) and np.array_equal(old.pages, new.pages)


def _sees_all(plan: Plan) -> bool:
    """Whether each run's first row sees all keys of the run's segments."""
    if not plan.num_rows:
        return False
    # Nothing depends on a run without rows: the next one's row stands in for its first.
    first = np.minimum(plan.run_rows[:-1], plan.num_rows - 1)
    lowest = np.repeat(plan.row_positions[first], np.diff(plan.run_segments))
    return bool(np.all(plan.segments.positions + plan.segments.lengths - 1 <= lowest))

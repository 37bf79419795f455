"""Which runs read the same keys: found wherever it helps, never where keys differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_plans import PlanBuilder, RunShape

from game_agent_kernels import Plan
from game_agent_kernels.segment_attention.groups import (
    MAX_GROUPS,
    MAX_ROWS,
    group_runs,
    groups_of,
    ranges,
)

LENGTHS = [128, 100, 27, 200, 60]


def plan_of(*runs: RunShape, lengths: list[int] = LENGTHS) -> Plan:
    plan = PlanBuilder(1, 1, 8, shared_lengths=lengths).build(runs)[3]
    plan.check(10**6)
    return plan


def shared(plan: Plan) -> list[tuple[list[int], list[int]]]:
    """(rows, lengths of the segments) of each group of several runs, the most worth first."""
    groups = group_runs(plan)
    found = []
    for i in range(len(groups.row_starts) - 1 - plan.num_runs):
        rows = groups.rows[groups.row_starts[i] : groups.row_starts[i + 1]]
        segments = groups.segments[groups.segment_starts[i] : groups.segment_starts[i + 1]]
        found.append((rows.tolist(), plan.segments.lengths[segments].tolist()))
    return found


def test_two_runs_over_one_world() -> None:
    plan = plan_of(RunShape(1, 30, far=[40], shared=range(5)), RunShape(2, shared=range(5)))
    assert shared(plan) == [([0, 1, 2], LENGTHS)]
    groups = group_runs(plan)
    assert groups.most_rows == 3
    assert groups.turns.tolist() == [-1, 0, 0, -1, -1, -1]
    # What is left: the first run's profile and own frame, the second one's frame.
    assert plan.segments.lengths[groups.segments[5:]].tolist() == [40, 31, 2]


def test_who_stands_where_the_first_stands_is_not_turned() -> None:
    plan = plan_of(*[RunShape(1, shared=range(5))] * 3)
    segments = plan.segments
    same = np.tile(segments.distances[:5], 3).astype(np.int32)
    distances = np.insert(same, [5, 10, 15], 0)
    plan = replace(plan, segments=replace(segments, distances=distances))
    assert group_runs(plan).turns.tolist() == [-1] * 6
    assert not len(group_runs(plan).cos)


def test_turns_are_the_difference_of_two_distances() -> None:
    plan = plan_of(*[RunShape(1, shared=range(5))] * 4)
    groups, seg = group_runs(plan), plan.segments
    for row in range(1, 4):
        turn = groups.cos[groups.turns[row]] + 1j * groups.sin[groups.turns[row]]
        of_first = seg.cos[:5] + 1j * seg.sin[:5]
        of_row = slice(6 * row, 6 * row + 5)
        np.testing.assert_allclose(
            turn * of_first, seg.cos[of_row] + 1j * seg.sin[of_row], atol=1e-6
        )


def test_some_runs_see_more_than_others() -> None:
    world, place = RunShape(1, shared=[0, 1]), RunShape(1, shared=[0, 1, 3])
    assert shared(plan_of(world, place, place)) == [([0, 1, 2], [128, 100]), ([1, 2], [200])]


def test_runs_that_have_the_blocks_in_another_order() -> None:
    """Blocks that follow on each other in all of them can be read together, others not."""
    plan = plan_of(RunShape(1, shared=[0, 1, 3]), RunShape(1, shared=[3, 0, 1]))
    assert shared(plan) == [([0, 1], [128, 100]), ([0, 1], [200])]
    # 100 tokens are 7 pages, too few for a group of their own.
    plan = plan_of(RunShape(1, shared=[0, 1, 3]), RunShape(1, shared=[1, 0, 3]))
    assert sorted(shared(plan)) == [([0, 1], [128]), ([0, 1], [200])]


def test_few_pages_and_long_runs_stay_alone() -> None:
    assert not shared(plan_of(*[RunShape(1, shared=[1])] * 3))
    assert not shared(plan_of(*[RunShape(MAX_ROWS + 1, shared=range(5))] * 3))
    assert shared(plan_of(*[RunShape(MAX_ROWS, shared=range(5))] * 3))
    assert not shared(plan_of(RunShape(1, shared=range(5))))


def test_one_run_that_reads_a_block_twice() -> None:
    twice, once = RunShape(1, shared=[3, 0, 3], own=False), RunShape(1, shared=[3, 0], own=False)
    assert not shared(plan_of(twice))
    plan = plan_of(twice, once)
    assert shared(plan) == [([0, 1], [200, 128])]
    assert group_runs(plan).segments[2:].tolist() == [2]


@pytest.mark.parametrize("change", ["length", "first page", "later page", "position"])
def test_what_differs_is_not_read_together(change: str) -> None:
    plan = plan_of(*[RunShape(1, 500, shared=[3], own=False)] * 2, lengths=LENGTHS)
    seg = plan.segments
    lengths, pages, positions = seg.lengths.copy(), seg.pages.copy(), seg.positions.copy()
    if change == "length":
        lengths[1] -= 1
    elif change == "position":
        positions[:] = 3, 4
    else:
        pages[len(pages) // 2 + (0 if change == "first page" else 5)] += 1
    assert shared(plan) == [([0, 1], [200])]
    segments = replace(seg, lengths=lengths, pages=pages, positions=positions)
    assert not shared(replace(plan, segments=segments))


def test_keys_that_a_row_does_not_see_are_not_shared() -> None:
    plan = plan_of(*[RunShape(1, 150, shared=[3], own=False)] * 2)
    positions = np.zeros(2, np.int32)
    assert not shared(replace(plan, segments=replace(plan.segments, positions=positions)))
    lengths = np.full(2, 151, np.int32)
    segments = replace(plan.segments, positions=positions, lengths=lengths)
    assert shared(replace(plan, segments=segments)) == [([0, 1], [151])]


def test_no_more_groups_than_are_worth_it() -> None:
    """Every pair of neighbours has a block to itself; the longest ones are shared."""
    lengths = [130 + i for i in range(20)]
    runs = [RunShape(1, shared=[i - 1, i] if i else [19, 0]) for i in range(20)]
    found = shared(plan_of(*runs, lengths=lengths))
    assert len(found) == MAX_GROUPS
    assert {n for _, (n,) in found} >= set(lengths[-5:]), (
        "blocks of ten pages, the others have nine"
    )


def test_groups_are_found_once_and_grow_with_padding() -> None:
    plan = plan_of(*[RunShape(2, shared=range(5))] * 2)
    groups = groups_of(plan)
    assert groups_of(plan) is groups
    padded = groups.with_run(3)
    assert padded.rows.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]
    assert np.diff(padded.row_starts).tolist() == [4, 2, 2, 3]
    assert np.diff(padded.segment_starts).tolist() == [5, 1, 1, 0]


def test_ranges() -> None:
    assert ranges([5, 0, 7], [2, 0, 3]).tolist() == [5, 6, 7, 8, 9]
    assert ranges(np.empty(0, int), np.empty(0, int)).tolist() == []

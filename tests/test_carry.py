"""What holds from one token of some replies to the next is what would be found anew."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_plans import PlanBuilder, RunShape

from game_agent_kernels import Plan
from game_agent_kernels.plan import starts
from game_agent_kernels.segment_attention.carry import carry_groups, carry_work
from game_agent_kernels.segment_attention.groups import group_runs, groups_of, ungrouped
from game_agent_kernels.segment_attention.worklist import Tiling, WorkList, divide

LENGTHS = [128, 100, 27, 200, 60]
TILING = Tiling(packed=16, rows=16, keys=64, wanted=8)


def plan_of(*runs: RunShape, lengths: list[int] = LENGTHS) -> Plan:
    plan = PlanBuilder(1, 1, 8, shared_lengths=lengths).build(runs)[3]
    plan.check(10**6)
    return plan


def next_token(plan: Plan, grows: bool) -> Plan:
    """One more key in each run's own segment, on a new page or not, and one more position."""
    seg = plan.segments
    last = plan.run_segments[1:] - 1
    lengths, counts = seg.lengths.copy(), np.diff(seg.page_starts)
    lengths[last] += 1
    pages = seg.pages
    if grows:
        pages = np.insert(pages, seg.page_starts[last + 1], 10**4 + np.arange(len(last)))
        counts[last] += 1
    segments = replace(seg, lengths=lengths, pages=pages, page_starts=starts(counts))
    return replace(plan, segments=segments, row_positions=plan.row_positions + np.int32(1))


@pytest.mark.parametrize("grows", [False, True])
def test_groups_hold_from_token_to_token(grows: bool) -> None:
    before = plan_of(*[RunShape(1, 30, far=[40], shared=range(5))] * 3)
    plan = next_token(before, grows)
    carry_groups(before, plan)
    assert not plan.derived, "there was nothing to take over"
    groups = groups_of(before)
    carry_groups(before, plan)
    assert groups_of(plan) is groups
    found = group_runs(plan)
    for name in vars(groups):
        np.testing.assert_array_equal(getattr(groups, name), getattr(found, name))


@pytest.mark.parametrize("change", ["pages", "lengths", "positions", "distances", "rows", "run"])
def test_groups_that_do_not_hold_are_found_anew(change: str) -> None:
    before = plan_of(*[RunShape(2, 300, shared=[0, 3])] * 2)
    plan = next_token(before, grows=True)
    if change == "rows":
        plan = replace(plan, row_positions=plan.row_positions - np.int32(290))
    elif change == "run":
        run_rows = np.array([0, 1, 4], np.int32)
        plan = replace(plan, run_rows=run_rows)
    else:
        array = getattr(plan.segments, change).copy()
        # The first segment of the second run.
        array[plan.segments.page_starts[3] if change == "pages" else 3] -= 1
        plan = replace(plan, segments=replace(plan.segments, **{change: array}))
    groups_of(before)
    carry_groups(before, plan)
    assert not plan.derived


REPLIES = st.lists(
    st.builds(
        RunShape,
        rows=st.just(1),
        position=st.integers(0, 140),
        far=st.lists(st.sampled_from([1, 16, 64, 200]), max_size=2),
        shared=st.sampled_from([(), (0, 1, 2, 3, 4), (1, 3), (4, 0)]),
    ),
    min_size=1,
    max_size=5,
)


def assert_same(got: WorkList, expected: WorkList) -> None:
    for field in fields(WorkList):
        name = field.name
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)


@settings(max_examples=60, deadline=None)
@given(REPLIES, st.sampled_from([16, 32, 64]), st.booleans())
def test_the_work_of_the_next_token(runs: list[RunShape], keys: int, alone: bool) -> None:
    """It is carried on just as long as every reply's own page has room."""
    tiling = replace(TILING, keys=keys)
    before = plan_of(*runs)
    work = divide(before, tiling, ungrouped(before) if alone else None)
    for num_tokens in range(1, 4):
        room = all(-(run.position + num_tokens) % 16 for run in runs)
        plan = next_token(before, grows=False)
        got = carry_work(work, before, plan)
        if got is None:
            assert not room
            return
        assert_same(got, divide(plan, tiling, ungrouped(plan) if alone else None))
        before, work = plan, got


def test_a_run_without_rows_is_in_nobodys_way() -> None:
    """As a step has that fills its bucket."""
    before = plan_of(RunShape(1, 30, far=[40]), RunShape(0, own=False))
    plan = next_token(replace(before, run_segments=before.run_segments), grows=False)
    work = carry_work(divide(before, TILING), before, plan)
    assert work is not None
    assert_same(work, divide(plan, TILING))


@pytest.mark.parametrize(
    "change",
    ["pages", "page_starts", "lengths", "positions", "distances", "rows", "run", "hidden", "page"],
)
def test_work_that_does_not_hold_is_made_anew(change: str) -> None:
    before = plan_of(*[RunShape(1, 300, far=[40], shared=[0, 3])] * 2)
    if change == "hidden":
        before = replace(before, row_positions=before.row_positions - np.int32(200))
    work = divide(before, TILING)
    plan = next_token(before, grows=change == "page")
    unchanged = carry_work(work, before, next_token(before, grows=False))
    assert (unchanged is None) == (change == "hidden")
    seg = plan.segments
    if change == "rows":
        plan = replace(plan, row_positions=plan.row_positions - np.int32(290))
    elif change == "run":
        plan = replace(plan, run_segments=np.array([0, 3, 8], np.int32))
    elif change not in ("hidden", "page"):
        array = getattr(seg, change).copy()
        array[5] -= 1  # of lengths, that of a shared segment in the second run
        plan = replace(plan, segments=replace(seg, **{change: array}))
    assert carry_work(work, before, plan) is None

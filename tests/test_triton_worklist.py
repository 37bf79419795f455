"""The division of plans into GPU work: every visible key meets every row exactly once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_plans import PlanBuilder, RunShape

from game_agent_kernels import PAGE_TOKENS, Plan
from game_agent_kernels.segment_attention.worklist import (
    HEADER_WORDS,
    Tiling,
    WorkList,
    divide,
    tiling_for,
)

LENGTHS = st.lists(st.sampled_from([1, 15, 16, 17, 31, 64, 65, 200]), max_size=5)
SHAPES = st.builds(
    RunShape,
    rows=st.sampled_from([1, 2, 15, 16, 17, 40]),
    position=st.sampled_from([0, 1, 16, 33]),
    far=LENGTHS,
    own=st.booleans(),
)
CHAINS = st.builds(RunShape, rows=st.just(5), position=st.just(90), chain=st.just((20, 30, 40)))
TILINGS = st.builds(
    Tiling,
    packed=st.just(16),
    rows=st.integers(1, 16),
    keys=st.sampled_from([16, 32, 64]),
    wanted=st.integers(1, 40),
)


def plan_of(shapes: list[RunShape]) -> Plan:
    return PlanBuilder(2, 1, 4).build(shapes)[3]


def met(plan: Plan, work: WorkList, tiling: Tiling) -> list[list[tuple[int, int]]]:
    """For each row, the (segment, page and place as one slot) of all keys its items show it."""
    seen: list[list[tuple[int, int]]] = [[] for _ in range(plan.num_rows)]
    for first, count, begin, end, _ in work.items.tolist():
        for segment, num_keys, position, *pages in work.tiles[begin:end].tolist():
            for i in range(num_keys):
                slot = pages[i // PAGE_TOKENS] * PAGE_TOKENS + i % PAGE_TOKENS
                for row in range(first, first + count):
                    if position + i <= plan.row_positions[row]:
                        seen[row].append((segment, slot))
    return seen


def visible(plan: Plan) -> list[list[tuple[int, int]]]:
    """The same by the visibility rule alone."""
    seg = plan.segments
    seen: list[list[tuple[int, int]]] = []
    for run in range(plan.num_runs):
        for row in range(plan.run_rows[run], plan.run_rows[run + 1]):
            keys: list[tuple[int, int]] = []
            for s in range(plan.run_segments[run], plan.run_segments[run + 1]):
                shown = int(plan.row_positions[row]) + 1 - int(seg.positions[s])
                pages = seg.pages[seg.page_starts[s] :]
                keys += [
                    (s, int(pages[i // PAGE_TOKENS]) * PAGE_TOKENS + i % PAGE_TOKENS)
                    for i in range(min(max(shown, 0), int(seg.lengths[s])))
                ]
            seen.append(keys)
    return seen


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPES | CHAINS, min_size=1, max_size=4), tiling=TILINGS)
def test_every_visible_key_is_met_once(shapes: list[RunShape], tiling: Tiling) -> None:
    plan = plan_of(shapes)
    work = divide(plan, tiling)
    for got, expected in zip(met(plan, work, tiling), visible(plan), strict=True):
        assert sorted(got) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPES | CHAINS, min_size=1, max_size=4), tiling=TILINGS)
def test_rows_find_their_partial_results(shapes: list[RunShape], tiling: Tiling) -> None:
    plan = plan_of(shapes)
    work = divide(plan, tiling)
    items_of_row: list[list[tuple[int, int]]] = [[] for _ in range(plan.num_rows)]
    for first, count, begin, end, partial in work.items.tolist():
        assert begin < end
        assert count <= tiling.rows
        for place in range(count):
            items_of_row[first + place].append((partial, place))
    partials = work.items[:, 4]
    split = np.sort(partials[partials >= 0])
    np.testing.assert_array_equal(split, np.arange(work.num_partials))
    for (position, first, count, place), items, at in zip(
        work.rows.tolist(), items_of_row, plan.row_positions.tolist(), strict=True
    ):
        assert position == at
        assert count == len(items)
        if count > 1:
            assert sorted(items) == [(first + i, place) for i in range(count)]
        elif count == 1:
            assert items == [(-1, place)]


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=4), tiling=TILINGS)
def test_work_is_even_and_bounded(shapes: list[RunShape], tiling: Tiling) -> None:
    """No item is longer than an even share, and there are at most row tiles + wanted items."""
    plan = plan_of(shapes)
    work = divide(plan, tiling)
    lengths = work.items[:, 3] - work.items[:, 2]
    total, least = int(lengths.sum()), max(128 // tiling.keys, 1)
    assert lengths.max(initial=0) <= max(-(-total // tiling.wanted), least)
    row_tiles = sum(-(-shape.rows // tiling.rows) for shape in shapes)
    assert len(work.items) <= row_tiles + tiling.wanted


def test_words_hold_the_tables_where_the_header_says() -> None:
    plan = plan_of([RunShape(3, far=[40, 17]), RunShape(2)])
    work = divide(
        plan, tiling_for(3, 30.0, heads=2, kv_heads=1, dim=4, dtype=torch.float16, processors=2)
    )
    words = np.full(200 + work.num_words, -7, np.int32)
    end = work.write(words, 10, 150)
    assert end == 150 + work.num_words
    assert (words[end:] == -7).all()
    assert words[10] == len(work.items)
    header = words[10 : 10 + HEADER_WORDS]
    tables = (work.items, work.rows, work.tiles, work.angles.view(np.int32))
    for offset, table in zip(header[1:5].tolist(), tables, strict=True):
        at = 10 + offset
        np.testing.assert_array_equal(words[at : at + table.size], table.reshape(-1))


def test_nothing_to_attend_to_is_no_work() -> None:
    plan = plan_of([RunShape(3, own=False)])
    work = divide(
        plan, tiling_for(3, 0.0, heads=2, kv_heads=1, dim=4, dtype=torch.float16, processors=2)
    )
    assert len(work.items) == 0
    assert work.rows[:, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("group", [1, 2, 3, 7, 8, 32])
@pytest.mark.parametrize("rows", [1, 5, 16, 50, 4096])
def test_tiles_hold_whole_rows(group: int, rows: int) -> None:
    tiling = tiling_for(
        rows, 100.0, heads=2 * group, kv_heads=2, dim=128, dtype=torch.float16, processors=132
    )
    assert tiling.rows >= 1
    assert tiling.rows * group <= tiling.packed
    assert tiling.packed in (16, 32, 64, 128)
    assert tiling.keys % PAGE_TOKENS == 0


def test_items_that_read_the_same_keys_stand_together() -> None:
    """Row tiles of one event over long blocks: in pairs, longest first."""
    plan = plan_of([RunShape(32, far=[4096], own=False)])
    work = divide(plan, Tiling(packed=16, rows=16, keys=64, wanted=8))
    first, last = work.items[:, 2], work.items[:, 3]
    assert len(work.items) == 8
    assert (np.diff(last - first) <= 0).all()
    np.testing.assert_array_equal(first[::2], first[1::2])
    assert (work.items[::2, 0] != work.items[1::2, 0]).all()

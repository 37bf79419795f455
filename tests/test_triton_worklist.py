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
    DIRECT,
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
SHARED_LENGTHS = (27, 200, 129, 16, 300)
SHARING = st.builds(
    RunShape,
    rows=st.sampled_from([1, 2, 7, 16, 17]),
    position=st.sampled_from([0, 20]),
    far=st.just([31]),
    shared=st.permutations(range(len(SHARED_LENGTHS))).flatmap(
        lambda order: st.sampled_from([(0, 1, 2, 3, 4), (1, 2, 4), (4,), tuple(order)])
    ),
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
    return PlanBuilder(2, 1, 4, shared_lengths=SHARED_LENGTHS).build(shapes)[3]


class Shown:
    """For each row the slots (page and place in one) of keys shown to it, and at what angles."""

    def __init__(self, num_rows: int) -> None:
        self._keys: list[dict[int, np.ndarray]] = [{} for _ in range(num_rows)]

    def show(self, row: int, slot: int, cos: np.ndarray, sin: np.ndarray) -> None:
        assert slot not in self._keys[row], "a key is met twice"
        self._keys[row][slot] = np.concatenate([cos, sin])

    def assert_equals(self, other: Shown) -> None:
        for mine, theirs in zip(self._keys, other._keys, strict=True):
            assert mine.keys() == theirs.keys()
            for slot, angles in mine.items():
                np.testing.assert_allclose(angles, theirs[slot], atol=1e-6)


def met(plan: Plan, work: WorkList) -> Shown:
    """What the items show each row, turned first by its own angles and then by the tile's."""
    shown = Shown(plan.num_rows)
    for first, count, begin, end, _ in work.items.tolist():
        for row, position, turn, _ in work.queries[first : first + count].tolist():
            assert position == plan.row_positions[row]
            for angles, num_keys, tile_position, *pages in work.tiles[begin:end].tolist():
                cos, sin = turned(work, angles, turn)
                for i in range(num_keys):
                    slot = pages[i // PAGE_TOKENS] * PAGE_TOKENS + i % PAGE_TOKENS
                    if tile_position + i <= position:
                        shown.show(row, slot, cos, sin)
    return shown


def turned(work: WorkList, angles: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of both rotations, one after the other."""
    cos, sin = work.angles[angles]
    if turn < 0:
        return cos, sin
    more_cos, more_sin = work.angles[turn]
    return cos * more_cos - sin * more_sin, sin * more_cos + cos * more_sin


def visible(plan: Plan) -> Shown:
    """The same by the visibility rule alone."""
    seg = plan.segments
    shown = Shown(plan.num_rows)
    for run in range(plan.num_runs):
        for row in range(plan.run_rows[run], plan.run_rows[run + 1]):
            for s in range(plan.run_segments[run], plan.run_segments[run + 1]):
                num_seen = int(plan.row_positions[row]) + 1 - int(seg.positions[s])
                pages = seg.pages[seg.page_starts[s] :]
                for i in range(min(max(num_seen, 0), int(seg.lengths[s]))):
                    slot = int(pages[i // PAGE_TOKENS]) * PAGE_TOKENS + i % PAGE_TOKENS
                    shown.show(row, slot, seg.cos[s], seg.sin[s])
    return shown


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPES | CHAINS, min_size=1, max_size=4), tiling=TILINGS)
def test_every_visible_key_is_met_once(shapes: list[RunShape], tiling: Tiling) -> None:
    plan = plan_of(shapes)
    met(plan, divide(plan, tiling)).assert_equals(visible(plan))


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHARING, min_size=2, max_size=6), tiling=TILINGS)
def test_every_shared_key_is_met_once_by_each_row(shapes: list[RunShape], tiling: Tiling) -> None:
    plan = plan_of(shapes)
    met(plan, divide(plan, tiling)).assert_equals(visible(plan))


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPES | CHAINS | SHARING, min_size=1, max_size=5), tiling=TILINGS)
def test_rows_find_their_partial_results(shapes: list[RunShape], tiling: Tiling) -> None:
    """Each row's lie one behind another, nobody else's among them."""
    plan = plan_of(shapes)
    work = divide(plan, tiling)
    made: list[list[int]] = [[] for _ in range(plan.num_rows)]
    for first, count, begin, end, part in work.items.tolist():
        assert begin < end
        assert count <= tiling.rows
        for row, _, _, first_part in work.queries[first : first + count].tolist():
            made[row].append(DIRECT if part == DIRECT else first_part + part)
    every = sorted(part for parts in made for part in parts if part != DIRECT)
    assert every == list(range(work.num_partials))
    for (first_part, count), parts in zip(work.rows.tolist(), made, strict=True):
        if count == DIRECT:
            assert parts == [DIRECT]
        else:
            assert sorted(parts) == list(range(first_part, first_part + count))


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
    angles = work.angles.view(np.int32)
    tables = (work.items, work.queries, work.rows, work.tiles, angles)
    for offset, table in zip(header[1:6].tolist(), tables, strict=True):
        at = 10 + offset
        np.testing.assert_array_equal(words[at : at + table.size], table.reshape(-1))


def test_nothing_to_attend_to_is_no_work() -> None:
    plan = plan_of([RunShape(3, own=False)])
    work = divide(
        plan, tiling_for(3, 0.0, heads=2, kv_heads=1, dim=4, dtype=torch.float16, processors=2)
    )
    assert len(work.items) == 0
    assert work.rows[:, 1].tolist() == [0, 0, 0]


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


@pytest.mark.parametrize(("num_runs", "times"), [(1, 1), (2, 1), (32, 1), (33, 2)])
def test_a_shared_world_is_read_once_for_a_tile_of_rows(num_runs: int, times: int) -> None:
    """Key tiles that items name: those of one run, for every 32 rows, and each run's own."""
    builder = PlanBuilder(4, 1, 8, shared_lengths=[128] * 64)
    shapes = [RunShape(1, 40, far=[100], shared=range(64))] * num_runs
    plan = builder.build(shapes)[3]
    work = divide(plan, Tiling(packed=128, rows=32, keys=64, wanted=33))
    named = int((work.items[:, 3] - work.items[:, 2]).sum())
    world, own = 64 * 128 // 64, 2 + 1
    assert named == times * world + num_runs * own

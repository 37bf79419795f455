"""Buckets and padding: what is added to a step changes nothing of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from kernel_plans import PlanBuilder, RunShape

from game_agent.model import graphs
from game_agent.model.buckets import BUCKETS, Bucket, Places, choose, pad_step
from game_agent.model.planner import (
    Run,
    Step,
    build_step,
    frame_segments,
    no_segments,
    own_segment,
    page_slots,
)
from game_agent.model.rope import Rope
from game_agent.model.runner import ModelRunner, load_runner
from game_agent.model.spec import RopeSpec
from game_agent_kernels import PAGE_TOKENS, Segments
from game_agent_kernels.segment_attention.worklist import (
    Launch,
    Tiling,
    WorkList,
    divide,
    tiling_for,
)

HALF = 8


def step_of(counts: list[tuple[int, int]]) -> Step:
    """A step of runs with (rows, logits wanted) and nothing to attend to."""
    none = no_segments(HALF)
    return build_step(
        [
            Run(np.zeros(rows, np.int32), 0, np.zeros(rows, np.int64), none, num_logits=wanted)
            for rows, wanted in counts
        ]
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([(1, 1)], Bucket(1, 1, 1)),
        ([(1, 1)] * 3, Bucket(4, 4, 4)),
        ([(3, 1)], Bucket(4, 4, 4)),
        ([(5, 1)], Bucket(16, 16, 16)),
        ([(50, 1)], Bucket(64, 64, 64)),
        ([(50, 1), (27, 0)] + [(1, 1)] * 8, Bucket(128, 64, 128)),
        ([(512, 64)], Bucket(512, 64, 512)),
        ([(512, 65)], None),
        ([(513, 1)], None),
    ],
)
def test_the_smallest_bucket_is_chosen(
    counts: list[tuple[int, int]], expected: Bucket | None
) -> None:
    assert choose(BUCKETS, step_of(counts)) == expected


@pytest.mark.parametrize(("replies", "expected"), [(4, 4), (5, 16), (32, 32), (40, 64)])
def test_replies_in_one_world_are_computed_in_one_tile(replies: int, expected: int) -> None:
    """Their bucket's tiles hold all of their rows; with worlds of their own they need no more."""
    world = np.arange(8, dtype=np.int32)
    rope = Rope(RopeSpec("default", 1e4, 2 * HALF, {}))

    def step(first_page: int) -> Step:
        runs = []
        for i in range(replies):
            frames = [(world + first_page * i, 120)]
            segments = frame_segments(frames, np.array([120 + i]), rope)
            runs.append(Run(np.zeros(1, np.int32), 0, np.zeros(1, np.int64), segments, 1))
        return build_step(runs)

    shared, apart = (choose(BUCKETS, step(pages)) for pages in (0, 8))
    assert shared is not None
    assert apart is not None
    assert shared.num_tokens == expected
    assert shared.run_rows >= replies
    assert apart.run_rows == 4


def test_groups_that_are_too_many_for_a_grid_are_not_made() -> None:
    """Then every run reads for itself, and only what that cannot hold is refused."""
    plan = PlanBuilder(2, 1, 8, shared_lengths=[200] * 4).build(
        [RunShape(1, shared=[0, 1]), RunShape(1, shared=[1, 2]), RunShape(1, shared=[2, 0])]
    )[3]
    tiling = Tiling(packed=16, rows=8, keys=64, wanted=1)

    def work(num_items: int) -> WorkList | None:
        words = torch.empty(0, dtype=torch.int32)
        return graphs._divide(plan, Launch(words, tiling, num_items, 99, True, True, True))

    assert work(6) is not None
    assert work(6).turns  # type: ignore[union-attr]
    assert not work(5).turns  # type: ignore[union-attr]
    assert len(work(5).items) == 3  # type: ignore[union-attr]
    assert work(2) is None


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=12))
def test_padded_steps_have_the_buckets_sizes(counts: list[tuple[int, int]]) -> None:
    step = step_of([(rows, min(rows, wanted)) for rows, wanted in counts])
    bucket = choose(BUCKETS, step)
    assert bucket is not None
    padded = pad_step(step, bucket, scratch_slot=99)
    num_rows = step.plan.num_rows
    assert len(padded.tokens) == padded.plan.num_rows == bucket.num_tokens
    assert len(padded.out_rows) == padded.out_plan.num_rows == bucket.num_outputs
    assert (padded.plan.row_slots[num_rows:] == 99).all()
    np.testing.assert_array_equal(padded.plan.row_slots[:num_rows], step.plan.row_slots)
    padded.plan.check(num_pages=7)
    padded.out_plan.check(num_pages=7)


def runs_of(runner: ModelRunner) -> list[Run]:
    """A block of 20 tokens, an event of 5 after it, and a reply's next token in another frame."""
    rng = np.random.default_rng(0)
    block, event, reply = (runner.pool.allocate(2) for _ in range(3))
    half = len(runner.rope.inv_freq)

    def run(pages: np.ndarray, first: int, last: int, far: list[Segments], wanted: int) -> Run:
        return Run(
            tokens=rng.integers(0, VOCAB, last - first).astype(np.int32),
            position=first,
            slots=page_slots(pages, first, last),
            segments=Segments.concat([*far, own_segment(pages, 0, last, half)]),
            num_logits=wanted,
        )

    far = [frame_segments([(block, 20)], np.array([20]), runner.rope)]
    return [run(block, 0, 20, [], 0), run(event, 0, 5, far, 2), run(reply, 0, 17, far, 1)]


@pytest.mark.parametrize("bucket", [Bucket(64, 8, 64), Bucket(64, 64, 64), Bucket(42, 3, 42)])
def test_padding_changes_no_logits_and_no_other_page(tmp_path: Path, bucket: Bucket) -> None:
    folder = make_checkpoint(tmp_path)
    runner = load_runner(folder, kv_memory_bytes=2**18, device="cpu", backend="reference")
    for pages in (runner.pool.keys, runner.pool.values):
        pages.zero_()
    scratch = int(runner.pool.allocate(1)[0])
    step = build_step(runs_of(runner))
    expected = runner.forward(step)
    keys, values = runner.pool.keys.clone(), runner.pool.values.clone()

    logits = runner.forward(pad_step(step, bucket, scratch * PAGE_TOKENS))
    if bucket.num_outputs == bucket.num_tokens:
        logits = logits[step.out_rows]
    assert torch.equal(logits[: len(expected)], expected) or torch.allclose(
        logits[: len(expected)], expected, atol=1e-5
    )
    others = torch.arange(runner.pool.num_pages) != scratch
    torch.testing.assert_close(runner.pool.keys[:, others], keys[:, others])
    torch.testing.assert_close(runner.pool.values[:, others], values[:, others])


@pytest.mark.parametrize("bucket", BUCKETS)
def test_places_do_not_overlap_and_give_back_what_was_written(bucket: Bucket) -> None:
    padded = pad_step(step_of([(1, 1)]), bucket, scratch_slot=3)
    cos = np.random.default_rng(0).random((bucket.num_tokens, HALF), np.float32)
    tiling = tiling_for(1, 64.0, heads=4, kv_heads=2, dim=16, dtype=torch.float16, processors=4)
    works = [divide(padded.plan, tiling), divide(padded.out_plan, tiling)]
    places = Places(bucket, HALF)
    words = np.full(places.num_words(works) + 5, -7, np.int32)
    end = places.write(words, padded, cos, -cos, works)
    assert end == places.num_words(works)
    assert (words[end:] == -7).all()
    np.testing.assert_array_equal(words[places.tokens].view(np.int64), padded.tokens)
    np.testing.assert_array_equal(words[places.slots].view(np.int64), padded.plan.row_slots)
    np.testing.assert_array_equal(words[places.out_rows].view(np.int64), padded.out_rows)
    np.testing.assert_array_equal(words[places.cos].view(np.float32), cos.reshape(-1))
    np.testing.assert_array_equal(words[places.sin].view(np.float32), -cos.reshape(-1))
    for at in (places.tokens, places.slots, places.out_rows, places.cos, places.sin):
        assert at.start % 4 == 0

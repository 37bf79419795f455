"""The compiled attention kernel against its reference."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_plans import PlanBuilder, RunShape
from torch import Tensor

from game_agent_kernels import Plan
from game_agent_kernels.segment_attention import reference, rope_shift

native = pytest.importorskip("game_agent_kernels.native", reason="the extension is not built")
_cpu = pytest.importorskip("game_agent_kernels._cpu")
cpu = pytest.importorskip("game_agent_kernels.segment_attention.cpu")

LENGTHS = (1, 15, 16, 17, 27, 63, 100, 256)
ROWS = (1, 15, 16, 17, 63, 100)
# Half a step of bfloat16 times values that differ by 5.
WEIGHT_TOLERANCE = 1e-2


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """The schedule splits its work, also on a machine with one core."""
    before = native.num_threads()
    native.set_num_threads(2)
    yield
    native.set_num_threads(before)
    native.set_instruction_set(native.instruction_sets()[0])


@pytest.fixture(params=native.instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each copy of the kernels that this processor can run, one after another."""
    native.set_instruction_set(request.param)
    yield request.param
    native.set_instruction_set(native.instruction_sets()[0])


def rounds_weights(pages: Tensor) -> bool:
    """Whether the kernel in use rounds weights to bfloat16 (see ``rounded_attention``)."""
    return native.instruction_set() == "avx512_bf16" and pages.dtype == torch.bfloat16


def assert_agrees(
    inputs: tuple[Tensor, Tensor, Tensor, Plan], tolerance: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """The kernel's answer is the reference's; returns both."""
    q, k, v, plan = inputs
    if native.instruction_set() == "amx":
        tolerance *= 5  # 16 bits of each factor
    if rounds_weights(k):
        tolerance = max(tolerance, WEIGHT_TOLERANCE)
    scale = q.shape[2] ** -0.5
    got = cpu.segment_attention(q, k, v, plan, scale)
    expected = reference.segment_attention(q, k, v, plan, scale)
    assert got.dtype == expected.dtype
    assert not expected.isnan().any()
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    return got, expected


@pytest.mark.parametrize("dim", [2, 6, 8, 24, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_head_dims_and_groups(instruction_set: str, dim: int, group: int) -> None:
    builder = PlanBuilder(2 * group, 2, dim)
    runs = [RunShape(17, 5, far=[27, 100]), RunShape(1, 40), RunShape(63, far=[16])]
    assert_agrees(builder.build(runs))


@pytest.mark.parametrize("rows", ROWS)
def test_rows_and_lengths(instruction_set: str, rows: int) -> None:
    builder = PlanBuilder(4, 2, 64)
    assert_agrees(builder.build([RunShape(rows, far=LENGTHS), RunShape(rows, 33, far=[300])]))


@pytest.mark.parametrize("rotary", [0, 2, 10, 32, 40])
def test_partial_rotary(instruction_set: str, rotary: int) -> None:
    builder = PlanBuilder(2, 1, 40, rotary=rotary)
    assert_agrees(builder.build([RunShape(9, 3, far=[27, 15])]))


@pytest.mark.parametrize("rows", [1, 50])
def test_three_hundred_segments(rows: int) -> None:
    assert_agrees(PlanBuilder(4, 2, 32).build([RunShape(rows, far=[27] * 300)]))


def test_full_mode_chain(instruction_set: str) -> None:
    """Segments at rising positions, last pages partly used, several chunks of one prefill."""
    builder = PlanBuilder(4, 2, 32)
    runs = [RunShape(40, 90, chain=[27, 63]), RunShape(300, chain=()), RunShape(1, 60, chain=[60])]
    assert_agrees(builder.build(runs))


def test_long_prefill_skips_what_is_hidden() -> None:
    assert_agrees(PlanBuilder(2, 1, 32).build([RunShape(1100, 20, far=[5])]))


@pytest.mark.parametrize("rows", [1, 3, 17])
@pytest.mark.parametrize("pages", [torch.float32, torch.bfloat16])
def test_runs_that_share_segments(instruction_set: str, rows: int, pages: torch.dtype) -> None:
    builder = PlanBuilder(4, 2, 32, shared_lengths=[27, 200, 100, 16, 300], dtype=pages)
    runs = [
        RunShape(rows, 9, shared=[0, 1, 2], far=[40]),
        RunShape(rows, shared=[2, 1, 0]),
        RunShape(1, 300, shared=[4, 0, 1, 4], own=False),
        RunShape(2, shared=[4], own=False),
        RunShape(60, shared=[0, 4]),
    ]
    assert_agrees(builder.build(runs))


def num_parts(plan: Plan) -> int:
    (schedule,) = plan.derived.values()
    assert isinstance(schedule, _cpu.Schedule)
    return int(schedule.num_parts)


def test_shared_segments_are_read_once() -> None:
    """Eight runs over the same blocks take no more parts than one run of as many rows."""
    shared = PlanBuilder(4, 2, 32, shared_lengths=[256] * 8)
    q, k, v, together = shared.build([RunShape(1, shared=range(8), own=False)] * 8)
    assert_agrees((q, k, v, together))
    alone = PlanBuilder(4, 2, 32).build([RunShape(8, far=[256] * 8, own=False)])
    assert_agrees(alone)
    assert num_parts(together) == num_parts(alone[3])


def test_shared_pages_at_positions_of_two_frames(instruction_set: str) -> None:
    """The same pages stand at 1000 in one frame and at 0 in another; both rows see all of them."""
    builder = PlanBuilder(4, 2, 32, shared_lengths=[256] * 8)
    runs = [RunShape(1, position, shared=range(8), own=False) for position in (3047, 2047)]
    q, k, v, plan = builder.build(runs)
    places = np.concatenate([np.arange(8) * 256 + offset for offset in (1000, 0)])
    segments = replace(plan.segments, positions=places.astype(np.int32))
    assert_agrees((q, k, v, replace(plan, segments=segments)))


def test_row_that_sees_nothing_is_zero(instruction_set: str) -> None:
    inputs = PlanBuilder(2, 2, 16).build([RunShape(3, own=False), RunShape(2, far=[5])])
    got, _ = assert_agrees(inputs)
    assert not got[:3].any()
    assert got[3:].all()


def test_no_rows() -> None:
    q, k, v, plan = PlanBuilder(2, 1, 16).build([RunShape(0, far=[20], own=False)])
    assert cpu.segment_attention(q, k, v, plan, 1.0).shape == (0, 2, 16)


def test_large_scores_do_not_overflow(instruction_set: str) -> None:
    q, k, v, plan = PlanBuilder(2, 1, 16).build([RunShape(5, far=[40])])
    assert_agrees((q * 300, k, v, plan), 1e-4)


def test_large_scores_of_many_rows(instruction_set: str) -> None:
    """Scores of about 100: their error, and so the weights', grows with them."""
    q, k, v, plan = PlanBuilder(2, 1, 64).build([RunShape(40, far=[70])])
    assert_agrees((q * 30, k, v, plan), 1e-4)


@pytest.mark.parametrize("rows", [2, 40])
def test_nan_in_a_visible_key_is_not_hidden(instruction_set: str, rows: int) -> None:
    q, k, v, plan = PlanBuilder(1, 1, 64).build([RunShape(rows, far=[40])])
    page = int(plan.segments.pages[0])
    k[page, 0, 3, 2] = torch.nan
    assert cpu.segment_attention(q, k, v, plan, 1.0).isnan().all()


@pytest.mark.parametrize("dim", [2, 3, 34, 35])
@pytest.mark.parametrize("rows", [2, 40])
def test_nan_in_a_bfloat16_key_or_a_query_is_not_hidden(
    instruction_set: str, rows: int, dim: int
) -> None:
    """In an even and an odd dimension of either half."""
    builder = PlanBuilder(1, 1, 64, dtype=torch.bfloat16)
    q, k, v, plan = builder.build([RunShape(rows, far=[40])])
    spoilt = q.clone()
    spoilt[1, 0, dim] = torch.nan
    got = cpu.segment_attention(spoilt, k, v, plan, 1.0)
    assert got[1].isnan().all()
    assert not got[0].isnan().any()
    page = int(plan.segments.pages[0])
    k[page, 0, dim, 2] = torch.nan
    assert cpu.segment_attention(q, k, v, plan, 1.0).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bfloat16_pages(instruction_set: str, dtype: torch.dtype) -> None:
    builder = PlanBuilder(4, 2, 40, dtype=torch.bfloat16)
    q, k, v, plan = builder.build([RunShape(11, 3, far=[27, 100])])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert_agrees((q.to(dtype), k, v, plan), tolerance)


KEY_BITS, QUERY_SUM, LARGEST_QUERY = 13, 2**18 - 256, 2**15 - 1
FIXED_ROWS = 8  # packed rows from which keys are integers, too


def power_above(x: Tensor) -> Tensor:
    """The power of two right above."""
    return torch.exp2(torch.floor(torch.log2(x)) + 1)


def whole_numbers(q: Tensor, turned: Tensor, keys: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Twin of ``fixed_point.hpp``: queries and keys rounded to whole multiples of their units.

    q, turned: [..., dim] before and after their rotation; keys: [kv_heads, dim, n]
    """
    ends = torch.stack([q[..., :half].abs(), q[..., half : 2 * half].abs()])
    pairs = ends.amax(0) + (2**0.5 - 1) * ends.amin(0)
    rest = q[..., 2 * half :].abs()
    total = 2**0.5 * pairs.sum(-1) + rest.sum(-1)
    largest = torch.cat([pairs, rest], -1).amax(-1)
    unit = power_above(torch.maximum(total / QUERY_SUM, largest / LARGEST_QUERY))[..., None]
    key_unit = power_above(keys.abs().amax(1, keepdim=True)) / 2**KEY_BITS
    return (turned / unit).round() * unit, (keys / key_unit).round() * key_unit


def rounded_attention(
    q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float
) -> tuple[Tensor, Tensor]:
    """Plain twin of the kernel on pairs for one run: (output, largest weight of each row, head).

    Weights are rounded to bfloat16 as powers of 2 below the row's maximum, raised to a whole one.
    """
    rows, heads, dim = q.shape
    kv_heads = k.shape[1]
    packed = q.double().view(rows, kv_heads, -1, dim)
    scores, values = [], []
    for first, last in reference.equal_distance_groups(plan, 0):
        keys, some, positions = reference.gather(k, v, plan, first, last)
        cos, sin = (torch.from_numpy(t[first]) for t in (plan.segments.cos, plan.segments.sin))
        turned = reference.rotate(q, cos, sin).view(rows, kv_heads, -1, dim).double()
        turned, whole = whole_numbers(packed, turned, keys.double(), cos.shape[-1])
        keys = whole if rows * heads // kv_heads >= FIXED_ROWS else keys.double()
        score = torch.einsum("rkgd,kdn->rkgn", turned, keys)
        hidden = positions > torch.from_numpy(plan.row_positions)[:, None]
        scores.append(score.masked_fill(hidden[:, None, None], -torch.inf))
        values.append(some)
    powers = torch.cat(scores, -1) * (scale * np.log2(np.e))
    top = powers.amax(-1, keepdim=True).ceil()
    weights = torch.exp2(powers - top).bfloat16().double()
    weights /= weights.sum(-1, keepdim=True)
    out = torch.einsum("rkgn,knd->rkgd", weights, torch.cat(values, 1).double())
    return out.float().reshape(q.shape), weights.amax(-1).float().reshape(rows, heads)


@pytest.mark.skipif("avx512_bf16" not in native.instruction_sets(), reason="no such processor")
@pytest.mark.parametrize("rows", [1, 3, 7, 50, 300])
@pytest.mark.parametrize("dim", [6, 40, 64, 96, 256])
def test_nothing_but_what_is_said_is_rounded(rows: int, dim: int) -> None:
    """Weights, queries and keys; but for weights so near the middle of two numbers that they are
    rounded the other way."""
    native.set_instruction_set("avx512_bf16")
    builder = PlanBuilder(4, 2, dim, dtype=torch.bfloat16)
    q, k, v, plan = builder.build([RunShape(rows, 5, far=[1, 15, 300, 27, 16, 700])])
    got = cpu.segment_attention(q, k, v, plan, dim**-0.5)
    expected, largest = rounded_attention(q, k, v, plan, dim**-0.5)
    error = (got - expected).abs().amax(-1)
    assert (error < 1e-5 + 2**-7 * largest * 4).all()
    assert (error < 3e-5).float().mean() >= 0.5


@pytest.mark.parametrize("kv_heads", [1, 3, 8, 40])
@pytest.mark.parametrize(("group", "dim"), [(1, 64), (2, 40), (3, 96), (4, 128), (5, 32)])
def test_a_token_of_a_reply(kv_heads: int, group: int, dim: int) -> None:
    """One row, over bfloat16 pages: all heads of a page together, or not if they are too many."""
    builder = PlanBuilder(kv_heads * group, kv_heads, dim, dtype=torch.bfloat16)
    assert_agrees(builder.build([RunShape(1, 40, far=[1, 700, 27, 16, 33])]))
    assert_agrees(builder.build([RunShape(1, 3), RunShape(1, far=[90]), RunShape(9, far=[90])]))


@pytest.mark.skipif("avx512_bf16" not in native.instruction_sets(), reason="no such processor")
@pytest.mark.parametrize("dim", [2, 64, 256])
@pytest.mark.parametrize("size", [0.0, 1e-25, 1.0, 1e25])
def test_integers_of_a_score_stay_in_32_bits(dim: int, size: float) -> None:
    """The worst that can be: all elements of queries and keys are as large as the largest."""
    native.set_instruction_set("avx512_bf16")
    builder = PlanBuilder(1, 1, dim, dtype=torch.bfloat16)
    q, k, v, plan = builder.build([RunShape(20, far=[40], own=False)])
    signs = torch.where(k[:, :, :1, :].isnan(), torch.nan, torch.arange(16.0) % 2 * 2 - 1)
    k = (signs.expand_as(k) * 3).bfloat16()
    segments = replace(
        plan.segments, cos=np.ones_like(plan.segments.cos), sin=np.zeros_like(plan.segments.sin)
    )
    plan = replace(plan, segments=segments)
    q = torch.full_like(q, size)
    # Scores are 8 or -8, so every second key counts.
    scale = 8 / (3 * dim * size) if size else 1.0
    got = cpu.segment_attention(q, k, v, plan, scale)
    expected = reference.segment_attention(q, k, v, plan, scale)
    torch.testing.assert_close(got, expected, atol=WEIGHT_TOLERANCE, rtol=0.0)
    other = reference.segment_attention(-q, k, v, plan, scale)
    assert (other - expected).abs().amax() > 10 * WEIGHT_TOLERANCE or not size


@pytest.mark.parametrize("rows", [1, 40])
def test_weights_add_up_to_one(instruction_set: str, rows: int) -> None:
    """Rounded or not: equal values come out as they are, of few keys and of many."""
    for lengths in ([1], [2], [17], [300, 27, 1000]):
        builder = PlanBuilder(4, 2, 64, dtype=torch.bfloat16)
        q, k, v, plan = builder.build([RunShape(rows, far=lengths, own=False)])
        v = torch.where(v.isnan(), v, torch.arange(64, dtype=torch.bfloat16))
        got = cpu.segment_attention(q, k, v, plan, 0.125)
        torch.testing.assert_close(got, torch.arange(64.0).expand_as(got), atol=1e-4, rtol=1e-5)


def test_a_row_is_the_same_however_keys_are_divided(instruction_set: str) -> None:
    """Alone, among many rows, on one thread and on several."""
    builder = PlanBuilder(4, 2, 64, dtype=torch.bfloat16)
    q, k, v, plan = builder.build([RunShape(60, far=[700, 300, 27], own=False)])
    whole = cpu.segment_attention(q, k, v, plan, 0.125)
    few = replace(
        plan,
        run_rows=np.array([0, 2], np.int32),
        row_positions=plan.row_positions[:2],
        row_slots=plan.row_slots[:2],
    )
    for threads in (1, 5):
        native.set_num_threads(threads)
        alone = cpu.segment_attention(q[:2], k, v, replace(few), 0.125)
        torch.testing.assert_close(alone, whole[:2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_answer(threads: int) -> None:
    native.set_num_threads(threads)
    runs = [RunShape(50, far=[256] * 8), RunShape(1, far=[2000]), RunShape(200)]
    inputs = PlanBuilder(4, 2, 32).build(runs)
    for _ in range(5):
        assert_agrees(inputs)


def test_callers_at_the_same_time() -> None:
    """The pool serves one; the others work alone. All get their own answer."""
    cases = [
        PlanBuilder(4, 2, 32, seed=seed).build([RunShape(9, far=[256] * 8), RunShape(60)])
        for seed in range(4)
    ]
    with ThreadPoolExecutor(4) as executor:
        for _ in executor.map(assert_agrees, cases * 4):
            pass


@st.composite
def plans(draw: st.DrawFn) -> tuple[PlanBuilder, list[RunShape]]:
    """Several runs of all kinds, some over the same blocks."""
    kv_heads = draw(st.integers(1, 3))
    dim = 2 * draw(st.integers(1, 24))
    lengths = draw(st.lists(st.integers(1, 90), max_size=5))
    builder = PlanBuilder(
        kv_heads * draw(st.integers(1, 8)),
        kv_heads,
        dim,
        rotary=2 * draw(st.integers(0, dim // 2)),
        shared_lengths=lengths,
        seed=draw(st.integers(0, 99)),
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16])),
    )
    run = st.integers(0, 40).flatmap(
        lambda position: st.builds(
            RunShape,
            rows=st.integers(1, 40),
            position=st.just(position),
            far=st.lists(st.integers(1, 70), max_size=4),
            shared=st.lists(st.sampled_from(range(len(lengths))), max_size=6)
            if lengths
            else st.just([]),
            own=st.booleans(),
            chain=st.just([position]) if position else st.just([]),
        )
    )
    return builder, draw(st.lists(run, min_size=1, max_size=5))


@pytest.mark.parametrize("name", native.instruction_sets())
@settings(max_examples=40, deadline=None)
@given(case=plans())
def test_any_plan(name: str, case: tuple[PlanBuilder, list[RunShape]]) -> None:
    native.set_instruction_set(name)
    builder, runs = case
    q, k, v, plan = builder.build(runs)
    got, _ = assert_agrees((q, k, v, plan), 2e-5)
    shifted = rope_shift.segment_attention(q, k, v, plan, builder.dim**-0.5)
    # Keys of 16 bits are rounded again where they are rotated.
    tolerance = WEIGHT_TOLERANCE if rounds_weights(k) else 1e-3
    torch.testing.assert_close(got, shifted, atol=tolerance, rtol=tolerance)


class TestRefusals:
    """What does not fit is an exception, never a wrong number."""

    @pytest.fixture
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Plan]:
        return PlanBuilder(4, 2, 16).build([RunShape(5, far=[40])])

    def test_not_contiguous(self, inputs: tuple[Tensor, Tensor, Tensor, Plan]) -> None:
        q, k, v, plan = inputs
        with pytest.raises(ValueError, match="contiguous"):
            cpu.segment_attention(q.transpose(0, 1), k, v, plan, 1.0)
        with pytest.raises(ValueError, match="contiguous"):
            cpu.segment_attention(q, k.transpose(0, 1), v, plan, 1.0)

    def test_types(self, inputs: tuple[Tensor, Tensor, Tensor, Plan]) -> None:
        q, k, v, plan = inputs
        for bad in ((q.double(), k, v), (q, k.half(), v.half()), (q, k.bfloat16(), v)):
            with pytest.raises(TypeError, match="must be"):
                cpu.segment_attention(*bad, plan, 1.0)
        with pytest.raises(TypeError, match="memory"):
            cpu.segment_attention(q.to("meta"), k, v, plan, 1.0)

    def test_shapes(self, inputs: tuple[Tensor, Tensor, Tensor, Plan]) -> None:
        q, k, v, plan = inputs
        bad = (
            (q[:4], k, v),
            (q[:, :, :8].contiguous(), k, v),
            (q, k, v[:-1]),
            (q[:, :3].contiguous(), k, v),
        )
        for tensors in bad:
            with pytest.raises(ValueError, match=r"must be|rows|share"):
                cpu.segment_attention(*tensors, plan, 1.0)

    @pytest.mark.parametrize("dim", [258, 7])
    def test_head_dim(self, dim: int) -> None:
        q, k, v, plan = PlanBuilder(1, 1, dim, rotary=2).build([RunShape(1)])
        with pytest.raises(ValueError, match="head dim"):
            cpu.segment_attention(q, k, v, plan, 1.0)

    def test_angles_wider_than_the_head(self) -> None:
        q, k, v, plan = PlanBuilder(1, 1, 8, rotary=10).build([RunShape(1)])
        with pytest.raises(ValueError, match="columns"):
            cpu.segment_attention(q, k, v, plan, 1.0)

    def test_page_outside_the_pool(self, inputs: tuple[Tensor, Tensor, Tensor, Plan]) -> None:
        q, k, v, plan = inputs
        plan.segments.pages[0] = len(k)
        with pytest.raises(ValueError, match="page outside"):
            cpu.segment_attention(q, k, v, plan, 1.0)

    def test_smaller_pool_later(self, inputs: tuple[Tensor, Tensor, Tensor, Plan]) -> None:
        """A plan that was checked against one pool is checked again for another."""
        q, k, v, plan = inputs
        cpu.segment_attention(q, k, v, plan, 1.0)
        with pytest.raises(ValueError, match="page outside"):
            cpu.segment_attention(q, k[:1], v[:1], plan, 1.0)

    def test_array_types(self, inputs: tuple[Tensor, Tensor, Tensor, Plan]) -> None:
        q, k, v, plan = inputs
        wide = Plan(
            plan.run_rows.astype(np.int64),
            plan.run_segments,
            plan.segments,
            plan.row_positions,
            plan.row_slots,
        )
        with pytest.raises(TypeError):
            cpu.segment_attention(q, k, v, wide, 1.0)

    def test_gradient(self, inputs: tuple[Tensor, Tensor, Tensor, Plan]) -> None:
        q, k, v, plan = inputs
        with pytest.raises(ValueError, match="gradient"):
            cpu.segment_attention(q.requires_grad_(), k, v, plan, 1.0)
        with torch.no_grad():
            cpu.segment_attention(q, k, v, plan, 1.0)

    def test_instruction_set(self) -> None:
        with pytest.raises(ValueError, match="sse9"):
            native.set_instruction_set("sse9")

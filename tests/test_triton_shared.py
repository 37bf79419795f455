"""Runs that read the same keys, against the reference: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from kernel_plans import PlanBuilder, RunShape
from torch import Tensor
from triton_device import DEVICE, INTERPRETS

from game_agent_kernels.segment_attention import reference, triton
from game_agent_kernels.segment_attention.groups import groups_of
from game_agent_kernels.segment_attention.worklist import LAUNCH, Launch

WORLD = [100, 27, 16, 1, 40]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LOW = torch.float16 if INTERPRETS else torch.bfloat16


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written is NaN."""

    def poisoned(make: object) -> object:
        def made(*args: object, **options: object) -> Tensor:
            tensor: Tensor = make(*args, **options)  # type: ignore[operator]
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return made

    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))


def assert_attends(
    runs: list[RunShape],
    *,
    heads: int = 4,
    kv_heads: int = 1,
    dim: int = 32,
    rotary: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    builder = PlanBuilder(heads, kv_heads, dim, rotary, WORLD, dtype=dtype)
    q, k, v, plan = builder.build(runs)
    q, k, v = (x.to(DEVICE, dtype) for x in (q, k, v))
    got = triton.segment_attention(q, k, v, plan, dim**-0.5)
    expected = reference.segment_attention(q.float(), k.float(), v.float(), plan, dim**-0.5)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=tolerance)
    launch = plan.derived[LAUNCH]
    assert isinstance(launch, Launch)
    assert launch.turns == (len(groups_of(plan).cos) > 0)


def talkers(count: int) -> list[RunShape]:
    """Replies of several lengths, each behind the world and what is one's own."""
    return [RunShape(1, 3 * i, far=[5 + i], shared=range(5)) for i in range(count)]


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (2, 2)])
@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_runs_that_share_a_world(count: int, heads: int, kv_heads: int) -> None:
    assert_attends(talkers(count), heads=heads, kv_heads=kv_heads)


@pytest.mark.parametrize(("dim", "rotary"), [(64, None), (80, 40), (128, 16), (48, 0)])
def test_head_dims_and_partial_rotations(dim: int, rotary: int | None) -> None:
    assert_attends(talkers(3), dim=dim, rotary=rotary)


@pytest.mark.parametrize("count", [5, 20])
def test_on_tensor_cores(count: int) -> None:
    """Groups fill large tiles, what is left of each run a small one, in one launch."""
    assert_attends(talkers(count), heads=8, kv_heads=2, dim=64, dtype=LOW)


def test_events_beside_replies() -> None:
    events = [RunShape(7, far=[9], shared=range(5)), RunShape(50, shared=range(5))]
    nothing = RunShape(2, own=False)
    assert_attends([*events, *talkers(3), nothing], heads=8, kv_heads=2)


def test_some_see_more_of_the_world() -> None:
    inside = [RunShape(1, 4, shared=[0, 1, 2, 3, 4], own=False)] * 3
    outside = [RunShape(2, 9, shared=[0, 2]), RunShape(1, shared=[4, 0, 1])]
    assert_attends([*inside, *outside, RunShape(3, 90, chain=[20, 30])])


def test_only_what_is_shared() -> None:
    """One group and nothing else: no item of a run alone."""
    assert_attends([RunShape(1, shared=range(5), own=False)] * 3)

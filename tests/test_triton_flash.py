"""Which passes flash attention can take, and that it would see the right keys."""

from __future__ import annotations

import pytest
import torch
from kernel_plans import PlanBuilder, RunShape
from torch import Tensor

from game_agent_kernels import Plan
from game_agent_kernels.segment_attention import flash, reference

OWN = [RunShape(17), RunShape(1, 40), RunShape(5, 33, chain=[16, 20])]


def causal(q: Tensor, k_pages: Tensor, v_pages: Tensor, layout: flash.Layout) -> Tensor:
    """What flash attention computes from a layout, the last row over the last key."""
    slots = torch.from_numpy(layout.slots)
    keys = k_pages[slots // 16, :, :, slots % 16]
    values = v_pages[slots // 16, :, slots % 16]
    out = torch.empty_like(q)
    for run in range(len(layout.run_rows) - 1):
        rows = slice(*layout.run_rows[run : run + 2].tolist())
        cols = slice(*layout.run_keys[run : run + 2].tolist())
        scores = torch.einsum("qhd,khd->hqk", q[rows], keys[cols]) * q.shape[2] ** -0.5
        num_rows, num_keys = scores.shape[1:]
        hidden = torch.ones(num_rows, num_keys).triu(num_keys - num_rows + 1).bool()
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        out[rows] = torch.einsum("hqk,khd->qhd", weights, values[cols])
    return out


def test_its_keys_give_the_references_answer() -> None:
    q, k, v, plan = PlanBuilder(2, 2, 16).build(OWN)
    layout = flash.lay_out(plan)
    assert layout is not None
    expected = reference.segment_attention(q, k, v, plan, 16**-0.5)
    torch.testing.assert_close(causal(q, k, v, layout), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "run", [RunShape(3, far=[20]), RunShape(3, own=False), RunShape(3, 4, far=[5], own=False)]
)
def test_other_frames_do_not_fit(run: RunShape) -> None:
    assert flash.lay_out(PlanBuilder(2, 2, 16).build([*OWN, run])[3]) is None


def test_what_does_not_fit_goes_to_the_fallback() -> None:
    calls: list[Plan] = []

    def fallback(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, scale: float) -> Tensor:
        calls.append(plan)
        return q

    q, k, v, plan = PlanBuilder(2, 2, 16).build([RunShape(200)])
    assert flash.before(fallback)(q, k, v, plan, 1.0) is q
    assert calls == [plan]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    q, k, v, plan = PlanBuilder(4, 2, 64, dtype=torch.bfloat16).build([*OWN, RunShape(200)])
    q, k, v = q.cuda().bfloat16(), k.cuda(), v.cuda()

    def fallback(*_: object) -> Tensor:
        raise AssertionError("flash attention takes this plan")

    got = flash.before(fallback)(q, k, v, plan, 0.125)
    expected = reference.segment_attention(q.float(), k.float(), v.float(), plan, 0.125)
    torch.testing.assert_close(got.float(), expected, atol=3e-2, rtol=3e-2)

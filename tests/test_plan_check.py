"""The compiled check of a plan refuses what ``Plan.check`` refuses, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_plans import PlanBuilder, RunShape

from game_agent_kernels import Plan

_cpu = pytest.importorskip("game_agent_kernels._cpu", reason="the extension is not built")
if not hasattr(_cpu, "check_plan"):
    pytest.skip("an extension built before", allow_module_level=True)

OF_PLAN = ("run_rows", "run_segments", "row_positions", "row_slots")
OF_SEGMENTS = ("page_starts", "pages", "lengths", "positions", "cos", "sin")


def plan(num_pages: int = 40) -> Plan:
    runs = [RunShape(3, far=[27, 5]), RunShape(1, 20, far=[40]), RunShape(2, own=False)]
    built = PlanBuilder(2, 1, 8).build(runs)[3]
    built.row_slots[:] = np.arange(len(built.row_slots)) * (num_pages - 1)
    return built


def refusal(check: Any, *args: Any) -> str | None:
    """What an exception says, None where there is none."""
    try:
        check(*args)
    except ValueError as error:
        return str(error)
    return None


def compiled(plan: Plan, num_pages: int) -> str | None:
    seg = plan.segments
    arrays = [getattr(seg, name) for name in OF_SEGMENTS]
    return refusal(
        _cpu.check_plan,
        plan.run_rows,
        plan.run_segments,
        *arrays,
        plan.row_positions,
        plan.row_slots,
        num_pages,
    )


def changed(plan: Plan, name: str, place: int, by: int, cut: int) -> Plan:
    """With one number of one array moved, and some of its end cut off."""
    owner: Any = plan if name in OF_PLAN else plan.segments
    array = getattr(owner, name)[: max(0, len(getattr(owner, name)) - cut)].copy()
    if array.size:
        array.reshape(-1)[place % array.size] += by
    owner = replace(owner, **{name: array})
    return owner if isinstance(owner, Plan) else replace(plan, segments=owner)


def test_a_good_plan() -> None:
    good = plan()
    good.check(40)
    assert compiled(good, 40) is None


@given(
    name=st.sampled_from(OF_PLAN + OF_SEGMENTS),
    place=st.integers(0, 99),
    by=st.sampled_from([0, 1, -1, 17, -17, 2**30, -(2**30)]),
    cut=st.integers(0, 2),
    num_pages=st.sampled_from([0, 1, 7, 40]),
)
@settings(max_examples=300, deadline=None)
def test_what_is_refused(name: str, place: int, by: int, cut: int, num_pages: int) -> None:
    bad = changed(plan(), name, place, by, cut)
    expected, got = refusal(bad.check, num_pages), compiled(bad, num_pages)
    if expected is not None and "in shape" in expected:
        assert got is not None
        assert "in shape" in got
    else:
        assert got == expected


def test_empty_arrays() -> None:
    empty = replace(plan(), run_rows=np.empty(0, np.int32))
    assert refusal(empty.check, 40) == compiled(empty, 40) is not None


def test_wrong_types() -> None:
    with pytest.raises(TypeError):
        compiled(replace(plan(), row_slots=plan().row_slots.astype(np.int32)), 40)

"""The Triton kernels against their references: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from kernel_plans import PlanBuilder, RunShape
from torch import Tensor
from triton_device import DEVICE, INTERPRETS

from game_agent_kernels.rms_norm import reference as norm_reference
from game_agent_kernels.rms_norm import triton as rms_norm
from game_agent_kernels.rope_store import reference as store_reference
from game_agent_kernels.rope_store import triton as rope_store
from game_agent_kernels.segment_attention import reference
from game_agent_kernels.segment_attention import triton as segment_attention
from game_agent_kernels.silu_mul import reference as silu_reference
from game_agent_kernels.silu_mul import triton as silu_mul

# The interpreter multiplies bfloat16 matrices wrongly; on a GPU it is the dtype that counts.
DTYPES = [torch.float32, torch.float16, *([] if INTERPRETS else [torch.bfloat16])]
# A number between two of 16 bits may fall to either, and is then multiplied once more.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
MIXED = [
    RunShape(17, 5, far=[27, 100]),
    RunShape(1, 40),
    RunShape(2, far=[1, 15, 16, 17]),
    RunShape(3, own=False),
    RunShape(5, 90, chain=[20, 30]),
]


def assert_attends(
    runs: list[RunShape],
    heads: int,
    kv_heads: int,
    dim: int,
    *,
    rotary: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """The kernel's answer is the reference's, computed in float32 from the same numbers."""
    builder = PlanBuilder(heads, kv_heads, dim, rotary=rotary, dtype=dtype)
    q, k, v, plan = builder.build(runs)
    q, k, v = (x.to(DEVICE, dtype) for x in (q, k, v))
    got = segment_attention.segment_attention(q, k, v, plan, dim**-0.5)
    expected = reference.segment_attention(q.float(), k.float(), v.float(), plan, dim**-0.5)
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("dim", "group", "rotary"),
    [(24, 3, None), (80, 7, 40), (128, 4, None), (256, 2, 0), (64, 8, 6)],
)
def test_attention(dim: int, group: int, rotary: int | None) -> None:
    assert_attends(MIXED, 2 * group, 2, dim, rotary=rotary)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("dim", [64, 128])
def test_attention_on_tensor_cores(dtype: torch.dtype, dim: int) -> None:
    assert_attends(MIXED, 4, 1, dim, dtype=dtype)


def test_a_plan_can_be_used_again() -> None:
    q, k, v, plan = PlanBuilder(2, 1, 32).build([RunShape(3, far=[200])])
    q, k, v = q.to(DEVICE), k.to(DEVICE), v.to(DEVICE)
    first = segment_attention.segment_attention(q, k, v, plan, 1.0)
    assert torch.equal(segment_attention.segment_attention(q, k, v, plan, 1.0), first)


@pytest.mark.parametrize("rows", [15, 16, 63])
def test_attention_to_many_rows(rows: int) -> None:
    assert_attends([RunShape(rows, 33, far=[100, 63, 1])], 4, 1, 32)


def test_attention_to_many_segments() -> None:
    assert_attends([RunShape(1, far=[27, 1, 16] * 10)], 2, 1, 32)


def test_attention_over_a_chain_is_not_rotated() -> None:
    runs = [RunShape(30, 50, chain=[20, 30, 16])]
    assert_attends(runs, 2, 1, 32)
    plan = PlanBuilder(2, 1, 32).build(runs)[3]
    assert not plan.segments.sin.any()


def test_attention_refuses_what_it_cannot_do() -> None:
    q, k, v, plan = PlanBuilder(2, 1, 32).build([RunShape(2)])
    attend = segment_attention.segment_attention
    with pytest.raises(TypeError, match="alike"):
        attend(q.half(), k, v, plan, 1.0)
    with pytest.raises(ValueError, match="contiguous"):
        attend(q.transpose(0, 1), k, v, plan, 1.0)
    with pytest.raises(ValueError, match="rows"):
        attend(q[:1], k, v, plan, 1.0)
    with pytest.raises(ValueError, match="page outside"):
        attend(q, k[:1], v[:1], plan, 1.0)
    with pytest.raises(ValueError, match="gradient"):
        attend(q.requires_grad_(), k, v, plan, 1.0)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (2, 3, 100), (0, 16)])
def test_norms(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual = random(*shape, dtype=dtype) * 3, random(*shape, dtype=dtype)
    weight = random(shape[-1], dtype=dtype)
    got = rms_norm.rms_norm(x, weight, 1e-5)
    near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(got, norm_reference.rms_norm(x, weight, 1e-5), **near)
    both = rms_norm.add_rms_norm(x, residual, weight, 1e-6)
    torch.testing.assert_close(both, norm_reference.add_rms_norm(x, residual, weight, 1e-6), **near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (3, 2050), (0, 4)])
def test_silu_mul(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype) * 5
    near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(silu_mul.silu_mul(x), silu_reference.silu_mul(x), **near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(("dim", "half"), [(32, 16), (24, 12), (40, 5), (16, 0)])
def test_rope_store(dim: int, half: int, norms: bool, dtype: torch.dtype) -> None:
    rows, heads, kv_heads, num_pages = 5, 4, 2, 3
    qkv = random(rows, (heads + 2 * kv_heads) * dim, dtype=dtype)
    cos, sin = random(rows, half), random(rows, half + 1)[:, :half].contiguous()
    slots = torch.tensor([0, 17, 47, 31, 5], device=DEVICE)
    weights = {"q_norm": random(dim, dtype=dtype), "k_norm": random(dim, dtype=dtype) * 2}
    pages = [
        (
            torch.full((num_pages, kv_heads, dim, 16), 9.0, dtype=dtype, device=DEVICE),
            torch.full((num_pages, kv_heads, 16, dim), 9.0, dtype=dtype, device=DEVICE),
        )
        for _ in range(2)
    ]
    got, expected = (
        store(qkv, cos, sin, slots, *kv, num_heads=heads, eps=1e-5, **(weights if norms else {}))
        for store, kv in zip(
            (rope_store.rope_store, store_reference.rope_store), pages, strict=True
        )
    )
    near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(got, expected, **near)
    torch.testing.assert_close(pages[0], pages[1], **near)


def test_gradients_are_not_cut_off() -> None:
    weight = torch.ones(8, device=DEVICE, requires_grad=True)
    rms_norm.rms_norm(random(2, 8), weight, 1e-5).sum().backward()
    assert weight.grad is not None
    x = random(2, 8).requires_grad_()
    silu_mul.silu_mul(x).sum().backward()
    assert x.grad is not None

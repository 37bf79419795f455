"""The compiled norms, activation and page writes against their references."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from game_agent_kernels.rms_norm import reference as norm_reference
from game_agent_kernels.rope_store import reference as store_reference
from game_agent_kernels.silu_mul import reference as silu_reference

native = pytest.importorskip("game_agent_kernels.native", reason="the extension is not built")
cpu_norm = pytest.importorskip("game_agent_kernels.rms_norm.cpu")
cpu_store = pytest.importorskip("game_agent_kernels.rope_store.cpu")
cpu_silu = pytest.importorskip("game_agent_kernels.silu_mul.cpu")

SHAPES = [(1, 1), (1, 8), (3, 17), (16, 64), (63, 100), (200, 256), (0, 16)]


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each copy of the kernels that this processor can run, with two threads."""
    threads = native.num_threads()
    native.set_num_threads(2)
    native.set_instruction_set(request.param)
    yield request.param
    native.set_instruction_set(native.instruction_sets()[0])
    native.set_num_threads(threads)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_norms(shape: tuple[int, int]) -> None:
    x, residual, weight = random(*shape) * 3, random(*shape), random(shape[1])
    torch.testing.assert_close(
        cpu_norm.rms_norm(x, weight, 1e-5), norm_reference.rms_norm(x, weight, 1e-5)
    )
    torch.testing.assert_close(
        cpu_norm.add_rms_norm(x, residual, weight, 1e-6),
        norm_reference.add_rms_norm(x, residual, weight, 1e-6),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_silu_mul(shape: tuple[int, int]) -> None:
    x = random(shape[0], 2 * shape[1]) * 10
    torch.testing.assert_close(cpu_silu.silu_mul(x), silu_reference.silu_mul(x))


def test_silu_of_extremes() -> None:
    x = torch.tensor([[-1e4, -90.0, -0.0, 90.0, 1e4, torch.nan] + [1.0] * 6])
    torch.testing.assert_close(
        cpu_silu.silu_mul(x), silu_reference.silu_mul(x), atol=1e-30, rtol=1e-5, equal_nan=True
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_go_to_the_reference(dtype: torch.dtype) -> None:
    x, weight = random(5, 16).to(dtype), random(16).to(dtype)
    assert torch.equal(cpu_norm.rms_norm(x, weight, 1e-5), norm_reference.rms_norm(x, weight, 1e-5))
    assert torch.equal(cpu_silu.silu_mul(x), silu_reference.silu_mul(x))


def test_gradients_are_kept() -> None:
    x, weight = random(5, 16).requires_grad_(), random(16)
    (cpu_norm.rms_norm(x, weight, 1e-5).sum() + cpu_silu.silu_mul(x).sum()).backward()
    assert x.grad is not None


def test_strided_input() -> None:
    x, weight = random(6, 40)[:, :20], random(20)
    torch.testing.assert_close(
        cpu_norm.rms_norm(x, weight, 1e-5), norm_reference.rms_norm(x, weight, 1e-5)
    )


class TestRopeStore:
    HEADS, KV_HEADS, PAGES = 6, 2, 20

    def arguments(self, rows: int, dim: int, rotary: int) -> tuple[Tensor, ...]:
        """qkv, cos, sin, slots and pages filled with NaN."""
        angles = random(rows, rotary // 2) * 3
        order = torch.randperm(self.PAGES * 16, generator=torch.Generator().manual_seed(rows))
        return (
            random(rows, (self.HEADS + 2 * self.KV_HEADS) * dim),
            angles.cos(),
            angles.sin(),
            order[:rows],
            torch.full((self.PAGES, self.KV_HEADS, dim, 16), torch.nan),
            torch.full((self.PAGES, self.KV_HEADS, 16, dim), torch.nan),
        )

    @pytest.mark.parametrize("normed", [False, True])
    @pytest.mark.parametrize(
        ("rows", "dim", "rotary"),
        [(1, 8, 8), (17, 24, 24), (63, 64, 64), (5, 80, 40), (250, 32, 32), (3, 256, 0), (0, 8, 8)],
    )
    def test_agrees(self, rows: int, dim: int, rotary: int, normed: bool) -> None:
        weights = {"q_norm": random(dim), "k_norm": random(dim, 1)[:, 0]} if normed else {}
        got, expected = self.arguments(rows, dim, rotary), self.arguments(rows, dim, rotary)
        q = cpu_store.rope_store(*got, num_heads=self.HEADS, **weights, eps=1e-5)
        wanted = store_reference.rope_store(*expected, num_heads=self.HEADS, **weights, eps=1e-5)
        torch.testing.assert_close(q, wanted)
        torch.testing.assert_close(got[4:], expected[4:], equal_nan=True)

    @pytest.mark.parametrize("normed", [False, True])
    def test_bfloat16_pages(self, normed: bool) -> None:
        """Values are rounded like torch does; keys by one step more or less, as sums differ."""
        weights = {"q_norm": random(24), "k_norm": random(24)} if normed else {}
        got, expected = self.arguments(63, 24, 24), self.arguments(63, 24, 24)
        got[0][5, -3:] = torch.tensor([torch.nan, torch.inf, 3e38])
        expected[0][5] = got[0][5]
        pages = [t.bfloat16() for t in got[4:]], [t.bfloat16() for t in expected[4:]]
        q = cpu_store.rope_store(*got[:4], *pages[0], num_heads=self.HEADS, **weights)
        wanted = store_reference.rope_store(
            *expected[:4], *pages[1], num_heads=self.HEADS, **weights
        )
        torch.testing.assert_close(q, wanted)
        torch.testing.assert_close(pages[0][0], pages[1][0], equal_nan=True, rtol=2**-7, atol=1e-6)
        torch.testing.assert_close(pages[0][1], pages[1][1], equal_nan=True, rtol=0, atol=0)

    def test_other_pages_go_to_the_reference(self) -> None:
        got, expected = self.arguments(7, 16, 16), self.arguments(7, 16, 16)
        pages = [t.half() for t in got[4:]], [t.half() for t in expected[4:]]
        cpu_store.rope_store(*got[:4], *pages[0], num_heads=self.HEADS)
        store_reference.rope_store(*expected[:4], *pages[1], num_heads=self.HEADS)
        torch.testing.assert_close(pages[0], pages[1], equal_nan=True)

    @pytest.mark.parametrize("slot", [-1, 20 * 16])
    def test_slot_outside_the_pages(self, slot: int) -> None:
        arguments = self.arguments(3, 8, 8)
        arguments[3][1] = slot
        with pytest.raises(IndexError, match=f"slot {slot}"):
            cpu_store.rope_store(*arguments, num_heads=self.HEADS)
        assert arguments[4].isnan().all(), "nothing is written before the check"

    def test_shapes_that_do_not_fit(self) -> None:
        qkv, cos, sin, slots, keys, values = self.arguments(3, 8, 8)
        for bad in (
            (qkv[:2], cos, sin, slots, keys, values),
            (qkv, cos, sin[:, :2].contiguous(), slots, keys, values),
            (qkv, cos, sin, slots[:2], keys, values),
            (qkv, cos, sin, slots, keys, values[:1]),
            (qkv, cos.repeat(1, 2), sin.repeat(1, 2), slots, keys, values),
        ):
            with pytest.raises(ValueError, match="must be"):
                cpu_store.rope_store(*bad, num_heads=self.HEADS)

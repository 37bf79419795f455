"""The compiled linear layer against its reference, and what both promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from game_agent_kernels.linear import reference

native = pytest.importorskip("game_agent_kernels.native", reason="the extension is not built")
_cpu = pytest.importorskip("game_agent_kernels._cpu")
cpu = pytest.importorskip("game_agent_kernels.linear.cpu")

# Of a weight: float32, float32 that is bfloat16 or (-16) float16 in truth, rounded to integers.
BITS = [32, 16, -16, 8]
SHAPES = [(1, 1), (5, 17), (16, 16), (64, 96), (100, 49), (300, 33), (256, 512), (7, 1000)]
ROWS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 17, 25, 50, 178]


@pytest.fixture(params=native.instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each copy of the kernels that this processor can run, with two threads."""
    threads = native.num_threads()
    native.set_num_threads(2)
    native.set_instruction_set(request.param)
    yield request.param
    native.set_instruction_set(native.instruction_sets()[0])
    native.set_num_threads(threads)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weights(num_out: int, num_in: int, bits: int) -> tuple[Tensor, int | None]:
    """Weights [out, in] and what ``pack_linear`` is to be told."""
    weight = random(num_out, num_in)
    if bits == -16:
        # Some below the normal numbers of float16, which are still exact.
        weight = (weight * 10.0 ** random(num_out, num_in, seed=9).clamp(-7, 0)).half().float()
        weight.view(-1)[:1] = 2.0**-24
    return (weight.bfloat16().float() if bits == 16 else weight), (8 if bits == 8 else None)


def assert_agrees(rows: int, num_in: int, num_out: int, bits: int, bias: bool) -> None:
    """Compiled and reference give the same, and every output is written."""
    weight, rounded = weights(num_out, num_in, bits)
    x = random(rows, num_in, seed=1)
    offset = random(num_out, seed=2) if bias else None
    packed = cpu.pack_linear(weight, offset, bits=rounded)
    expected = reference.linear(x, reference.pack_linear(weight, offset, bits=rounded))
    poisoned = torch.full((rows, num_out), torch.nan)
    _cpu.linear(
        x.data_ptr(),
        packed.weight.data_ptr(),
        cpu.kind(packed.weight),
        packed.scale.data_ptr() if packed.scale is not None else 0,
        packed.bias.data_ptr() if packed.bias is not None else 0,
        poisoned.data_ptr(),
        rows,
        num_in,
        num_out,
    )
    # Sums of num_in products of size 1, in another order: partial sums grow with the square root of
    # num_in, and so does the sum of as many rounding errors of that size.
    torch.testing.assert_close(poisoned, expected, atol=1e-5 + 1e-7 * num_in, rtol=1e-5)
    assert torch.equal(cpu.linear(x, packed), poisoned)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("num_in", "num_out"), SHAPES)
def test_shapes(num_in: int, num_out: int, bits: int) -> None:
    for rows in ROWS:
        assert_agrees(rows, num_in, num_out, bits, bias=rows % 2 == 0)


@pytest.mark.parametrize("bits", BITS)
def test_many_rows(bits: int) -> None:
    assert_agrees(1000, 130, 70, bits, bias=True)
    assert_agrees(1000, 160, 70, bits, bias=True)
    assert_agrees(60, 9000, 20, bits, bias=False)


@given(
    rows=st.integers(0, 40),
    num_in=st.integers(0, 70),
    num_out=st.integers(1, 130),
    bits=st.sampled_from(BITS),
    bias=st.booleans(),
    threads=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_any_shape(
    rows: int, num_in: int, num_out: int, bits: int, bias: bool, threads: int
) -> None:
    native.set_num_threads(threads)
    assert_agrees(rows, num_in, num_out, bits, bias)


@pytest.mark.parametrize("bits", BITS)
def test_a_row_does_not_depend_on_the_others(bits: int) -> None:
    weight, rounded = weights(200, 96, bits)
    packed = cpu.pack_linear(weight, random(200), bits=rounded)
    x = random(150, 96, seed=3)
    whole = cpu.linear(x, packed)
    tiles = native.instruction_set() == "amx" and bits == 16
    for rows in (12, 40) if tiles else (1, 3, 8, 11, 40):
        assert torch.equal(cpu.linear(x[:rows], packed), whole[:rows])


def test_bfloat16_weights_take_half_the_room_and_change_nothing(instruction_set: str) -> None:
    weight, _ = weights(100, 64, 16)
    packed = cpu.pack_linear(weight)
    assert packed.weight.dtype == torch.bfloat16
    assert torch.equal(cpu.unpack(packed).weight, weight)
    weight[7, 5] += 1e-3
    assert cpu.pack_linear(weight).weight.dtype == torch.float32


@pytest.mark.skipif(not hasattr(_cpu, "HAS_FLOAT16_WEIGHTS"), reason="an extension built before")
def test_float16_weights_take_half_the_room_and_change_nothing() -> None:
    weight, _ = weights(100, 63, -16)
    packed = cpu.pack_linear(weight)
    assert packed.weight.dtype == torch.float16
    assert torch.equal(cpu.unpack(packed).weight, weight)
    for inexact in (1e-9, 1e6, torch.inf, torch.nan):
        other = weight.clone()
        other[7, 5] = inexact
        expected = torch.float16 if inexact == torch.inf else torch.float32
        assert cpu.pack_linear(other).weight.dtype == expected


def test_every_float16_number_is_itself() -> None:
    """Through the product with 1: all finite numbers, with as many rows as use each way."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    weight = numbers[numbers.isfinite()].view(-1, 1)
    packed = cpu.pack_linear(weight)
    for rows in (1, 3, 40):
        out = cpu.linear(torch.ones(rows, 1), packed)
        assert torch.equal(out, weight.view(1, -1).expand(rows, -1))


def test_a_kind_of_weights_that_is_unknown() -> None:
    if not hasattr(_cpu, "HAS_FLOAT16_WEIGHTS"):
        pytest.skip("an extension built before")
    with pytest.raises(ValueError, match="kind"):
        _cpu.linear(0, 0, 4, 0, 0, 0, 0, 0, 0)


def test_eight_bits_are_near() -> None:
    """A weight is off by half a step at most: the sum's error is what random steps add up to."""
    weight, x = random(64, 256), random(20, 256, seed=4)
    packed = reference.pack_linear(weight, bits=8)
    assert packed.scale is not None
    assert packed.weight.dtype == torch.int8
    restored = packed.weight * packed.scale[:, None]
    assert ((restored - weight).abs() <= 0.5001 * packed.scale[:, None]).all()
    assert (packed.weight.abs().amax(1) == 127).all()
    error = cpu.linear(x, cpu.pack_linear(weight, bits=8)) - x @ weight.T
    assert error.std() < 0.02 * (x @ weight.T).std()


def test_an_output_without_weights() -> None:
    packed = cpu.pack_linear(torch.zeros(3, 8), torch.ones(3), bits=8)
    assert torch.equal(cpu.linear(random(2, 8), packed), torch.ones(2, 3))


def test_a_weight_that_is_no_number_is_not_lost() -> None:
    for bits, rows in ((bits, rows) for bits in BITS for rows in (2, 20)):
        weight, rounded = weights(20, 32, bits)
        weight[3, 5] = torch.nan
        out = cpu.linear(random(rows, 32, seed=5), cpu.pack_linear(weight, bits=rounded))
        assert out[:, 3].isnan().all()
        assert out.isnan().sum() == rows


def test_gradients_of_weights_are_kept() -> None:
    weight, bias = random(20, 16).requires_grad_(), random(20).requires_grad_()
    cpu.linear(random(5, 16), cpu.pack_linear(weight, bias)).sum().backward()
    assert weight.grad is not None
    assert bias.grad is not None


@pytest.mark.parametrize("bits", BITS)
def test_other_types_go_to_the_reference(bits: int) -> None:
    weight, rounded = weights(9, 16, bits)
    weight, x = weight.bfloat16(), random(5, 16).bfloat16()
    got = cpu.linear(x, cpu.pack_linear(weight, bits=rounded))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, reference.linear(x, reference.pack_linear(weight, bits=rounded)))


@pytest.mark.parametrize("bits", BITS)
def test_gradients_and_strides_go_to_the_reference(bits: int) -> None:
    (weight, rounded), bias = weights(20, 16, bits), random(20)
    packed = cpu.pack_linear(weight, bias, bits=rounded)
    expected = reference.pack_linear(weight, bias, bits=rounded)
    x = random(5, 16).requires_grad_()
    cpu.linear(x, packed).sum().backward()
    assert x.grad is not None
    strided = random(6, 40)[:, :16]
    torch.testing.assert_close(cpu.linear(strided, packed), reference.linear(strided, expected))


def test_shapes_that_do_not_fit() -> None:
    packed = cpu.pack_linear(random(4, 8))
    for bad in (random(2, 9), random(8)):
        with pytest.raises(ValueError, match="x must be"):
            cpu.linear(bad, packed)
    for pack in (cpu.pack_linear, reference.pack_linear):
        with pytest.raises(ValueError, match="weight and bias must be"):
            pack(random(4, 8), random(3))
        with pytest.raises(ValueError, match="8 bits, not 4"):
            pack(random(4, 8), bits=4)


class Sizes(TorchDispatchMode):
    """Notes the largest tensor that an operation makes in new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.largest[storage.data_ptr()] = storage.nbytes()
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [None, 8])
def test_packing_needs_little_room_beside_the_result(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bits: int | None
) -> None:
    monkeypatch.setattr(cpu, "PIECE_WEIGHTS", 5000)
    weight = random(1000, 96).to(dtype)
    with Sizes() as sizes:
        packed = cpu.pack_linear(weight, bits=bits, dtype=torch.float32)
    kept = {t.untyped_storage().data_ptr() for t in (weight, packed.weight)}
    piece = max(size for at, size in sizes.largest.items() if at not in kept)
    assert piece <= 4 * 64 * 96, "four bytes a number, four panels"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("size", [1, 500, 10**9])
def test_pieces_and_types_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bits: int | None, size: int
) -> None:
    """Weights of 16 bits give what their float32 copy gives, in pieces or whole."""
    weight, bias = random(123, 34).to(dtype), random(123)
    expected = cpu.pack_linear(weight.float(), bias, bits=bits)
    monkeypatch.setattr(cpu, "PIECE_WEIGHTS", size)
    packed = cpu.pack_linear(weight, bias, bits=bits, dtype=torch.float32)
    assert packed.weight.dtype == expected.weight.dtype
    assert torch.equal(packed.weight, expected.weight)
    assert (packed.scale is None) == (expected.scale is None)
    if packed.scale is not None and expected.scale is not None:
        assert torch.equal(packed.scale, expected.scale)
    plain = reference.pack_linear(weight, bias, bits=bits, dtype=torch.float32)
    assert torch.equal(cpu.unpack(packed).weight, plain.weight)

"""The GPU kernels alone: first right, then timed beside what torch has."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from kernel_plans import PlanBuilder, RunShape
from torch import Tensor

from game_agent_kernels import Kernels, Plan, kernels_for
from game_agent_kernels.segment_attention import reference, worklist
from game_agent_kernels.segment_attention import triton as triton_attention

TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Shape:
    """Heads of the attention that is timed."""

    heads: int
    kv_heads: int
    dim: int


@dataclass(frozen=True)
class Case:
    """Runs of equal shape over blocks; 0 blocks: each run alone, causal."""

    name: str
    rows: int
    num_blocks: int = 0
    block_tokens: int = 0
    num_runs: int = 1

    @property
    def shapes(self) -> list[RunShape]:
        shared = list(range(self.num_blocks))
        return [RunShape(self.rows, shared=shared, own=not shared)] * self.num_runs

    @property
    def keys(self) -> int:
        """Keys that one run sees at most."""
        return self.num_blocks * self.block_tokens or self.rows

    @property
    def scores(self) -> int:
        """Visible (query, key) pairs of one head, all runs together."""
        causal = self.rows * (self.rows + 1) // 2
        return self.num_runs * (self.rows * self.keys if self.num_blocks else causal)

    def stored_keys(self) -> int:
        """Keys that have to be read at least once."""
        return self.keys if self.num_blocks else self.keys * self.num_runs


CASES = (
    Case("event of 50, 256 blocks of 128", 50, 256, 128),
    Case("event of 50, 64 blocks of 128", 50, 64, 128),
    Case("event of 50, 300 blocks of 27", 50, 300, 27),
    Case("event of 50, 4 blocks of 8192", 50, 4, 8192),
    Case("1 reply, 256 blocks of 128", 1, 256, 128),
    Case("16 replies, the same 64 blocks of 128", 1, 64, 128, num_runs=16),
    Case("64 encodes of 128", 128, num_runs=64),
    Case("causal prefill of 4096", 4096),
    Case("causal prefill of 16384", 16384),
)
SHAPE_8B = Shape(32, 8, 128)
SMOKE_SHAPE = Shape(2, 1, 16)
SMOKE_CASES = (Case("smoke", 3, 2, 20), Case("smoke causal", 9))


def device_ms(function: Callable[[], object]) -> float:
    """Median time on the device, launches not counted; on a CPU, of one call."""
    if not torch.cuda.is_available():
        begun = time.perf_counter()
        function()
        return (time.perf_counter() - begun) * 1e3
    function()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        function()
    # A layer finds nothing of its own in the second-level cache: the others' weights went through.
    others = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        others.zero_()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return median(times[2:])


def attention_error(kernels: Kernels, device: torch.device, dtype: torch.dtype, dim: int) -> float:
    """Largest difference from the reference over runs that are easy to get wrong."""
    runs = [
        RunShape(17, 5, far=[27, 100, 1]),
        RunShape(1, 40, far=[15, 16, 17] * 30),
        RunShape(3, own=False),
        RunShape(63, 90, chain=[20, 30]),
        RunShape(200),
    ]
    # Odd groups, and rotations of a part only, where nothing is timed.
    group = 4 if dim == 128 else 3
    rotary = 40 if dim == 80 else None
    builder = PlanBuilder(2 * group, 2, dim, rotary=rotary, dtype=dtype)
    worst = 0.0
    for some in (runs, runs[-2:]) if device.type == "cuda" else (runs[:3],):
        q, k, v, plan = builder.build(some)
        q, k, v = (x.to(device, dtype) for x in (q, k, v))
        got = kernels.segment_attention(q, k, v, plan, dim**-0.5).float()
        wanted = reference.segment_attention(q.float(), k.float(), v.float(), plan, dim**-0.5)
        error = float((got - wanted).abs().max())
        # NaN, from a place that must not be read, is as wrong as can be.
        worst = max(worst, error) if error == error else float("inf")
    return worst


def elementwise_error(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference of norms, activation and page writes from their references."""
    plain = kernels_for(device, "reference")
    x, residual = (torch.randn(37, 384, device=device, dtype=dtype) for _ in range(2))
    weight = torch.randn(384, device=device, dtype=dtype)
    head_weight = torch.randn(64, device=device, dtype=dtype)
    qkv = torch.randn(37, 6 * 64, device=device, dtype=dtype)
    cos, sin = torch.rand(2, 37, 32, device=device).unbind()
    slots = torch.randperm(64, device=device)[:37]

    def outputs(kernels: Kernels) -> list[Tensor]:
        k, v = torch.zeros(2, 4, 1, 64, 16, device=device, dtype=dtype).unbind()
        v = v.reshape(4, 1, 16, 64)
        q = kernels.rope_store(
            qkv, cos, sin, slots, k, v, num_heads=4, q_norm=head_weight, k_norm=head_weight
        )
        added = kernels.add_rms_norm(x, residual, weight, 1e-5)
        return [q, k, v, *added, kernels.rms_norm(x, weight, 1e-5), kernels.silu_mul(x)]

    pairs = zip(outputs(kernels), outputs(plain), strict=True)
    # Relative to the size of the values, for roundings of large ones are large.
    errors = [float(((a - b).abs() / b.abs().clamp_min(1)).max()) for a, b in pairs]
    return max(errors)


def sdpa(case: Case, q: Tensor, shape: Shape) -> Callable[[], object]:
    """Torch's attention over contiguous keys of the same number: the best case, without blocks."""
    runs, keys = case.num_runs, case.keys
    query = q.view(runs, case.rows, shape.heads, shape.dim).transpose(1, 2).contiguous()
    k, v = (
        torch.randn(runs, shape.kv_heads, keys, shape.dim, device=q.device, dtype=q.dtype)
        for _ in range(2)
    )
    causal = not case.num_blocks

    def run() -> Tensor:
        return F.scaled_dot_product_attention(query, k, v, is_causal=causal, enable_gqa=True)

    return run


def time_case(
    case: Case, shape: Shape, device: torch.device, backends: Sequence[str]
) -> dict[str, object]:
    """Milliseconds, TFLOP/s and GB/s of each backend, and of torch's SDPA, on one case."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shared = [case.block_tokens] * case.num_blocks
    builder = PlanBuilder(shape.heads, shape.kv_heads, shape.dim, shared_lengths=shared)
    q, k, v, plan = builder.build(case.shapes)
    q, k, v = (x.to(device, dtype) for x in (q, k, v))
    scale = shape.dim**-0.5
    ways: dict[str, Callable[[], object]] = {
        name: _attention(kernels_for(device, name), q, k, v, plan, scale)
        for name in backends
        if name != "flash" or not case.num_blocks
    }
    ways["sdpa"] = sdpa(case, q, shape)
    row: dict[str, object] = {"case": case.name}
    kv_bytes = 2 * case.stored_keys() * shape.kv_heads * shape.dim * dtype.itemsize
    for name, way in ways.items():
        ms = device_ms(way)
        row[f"{name}_ms"] = ms
        row[f"{name}_tflops"] = 4e-9 * case.scores * shape.heads * shape.dim / ms
        row[f"{name}_gb_per_s"] = 1e-6 * kv_bytes / ms
    return row


@dataclass(frozen=True)
class Choice:
    """Sizes that might serve attention better.

    stages: of the pipeline; keys: of a tile; fill: programs for each processor
    """

    stages: int
    keys: int
    fill: int


TUNED_CASES = (CASES[0], CASES[4], CASES[5], CASES[7])
CHOICES = tuple(
    Choice(stages, keys, fill)
    for fill in (2, 1, 4)
    for keys in (64, 32, 128)
    for stages in (5, 3, 7)
)


def time_choice(
    case: Case, choice: Choice, shape: Shape, device: torch.device
) -> dict[str, object]:
    """Milliseconds of the Triton kernel with other sizes than it would choose."""

    def tiling_for(*args: Any, **options: Any) -> worklist.Tiling:
        chosen = worklist.tiling_for(*args, **options)
        wanted = choice.fill * options["processors"] // options["kv_heads"]
        return replace(chosen, keys=choice.keys, wanted=max(wanted, 1))

    with (
        mock.patch.object(triton_attention, "tiling_for", tiling_for),
        mock.patch.object(triton_attention, "_num_stages", return_value=choice.stages),
    ):
        ms = time_case(case, shape, device, ["triton"])["triton_ms"]
    return {"case": case.name, **asdict(choice), "ms": ms}


def _attention(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float
) -> Callable[[], object]:
    # A plan keeps what a kernel made of it, so each kernel has its own.
    own = Plan(plan.run_rows, plan.run_segments, plan.segments, plan.row_positions, plan.row_slots)
    return lambda: kernels.segment_attention(q, k, v, own, scale)


def machine_figures(device: torch.device) -> dict[str, float]:
    """What the device reaches: GB/s of a copy (read and written), TFLOP/s of a bf16 product."""
    smoke = device.type != "cuda"
    source = torch.zeros(2**16 if smoke else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = device_ms(lambda: target.copy_(source))
    n = 64 if smoke else 8192
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16).unbind()
    product = device_ms(lambda: a @ b)
    return {"gb_per_s": 2e-6 * source.nbytes / copied, "tflops": 2e-9 * n**3 / product}

"""GFLOP/s of the compiled attention and linear layers beside torch's, in the same run.

``python bench/kernels.py [--threads N] [--repeats N]``. A kernel whose answer is not the
reference's is not timed: the program ends with status 1. Times are medians of
alternating repeats.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from kernel_plans import PlanBuilder, RunShape  # noqa: E402

from game_agent_kernels import PackedLinear, Plan, native, set_num_threads  # noqa: E402
from game_agent_kernels.linear import cpu as cpu_linear  # noqa: E402
from game_agent_kernels.segment_attention import cpu, reference  # noqa: E402

HEADS, KV_HEADS = 4, 4
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Case:
    """Runs of equal shape over ``num_blocks`` blocks of ``block_tokens``; 0: causal alone."""

    name: str
    dim: int
    rows: int
    num_blocks: int
    block_tokens: int
    num_runs: int = 1
    shared: bool = False

    def shapes(self) -> list[RunShape]:
        far = [] if self.shared else [self.block_tokens] * self.num_blocks
        shared = list(range(self.num_blocks)) if self.shared else []
        own = self.num_blocks == 0
        return [RunShape(self.rows, far=far, shared=shared, own=own)] * self.num_runs

    @property
    def num_scores(self) -> int:
        """Visible (query, key) pairs per head."""
        keys = self.num_blocks * self.block_tokens
        causal = 0 if self.num_blocks else self.rows * (self.rows + 1) // 2
        return self.num_runs * (self.rows * keys + causal)

    @property
    def gflop(self) -> float:
        return 4e-9 * self.num_scores * HEADS * self.dim


CASES = [
    *(
        case
        for dim in (32, 64, 128)
        for case in (
            Case("50 queries, 32 blocks of 256", dim, 50, 32, 256),
            Case("50 queries, 300 blocks of 27", dim, 50, 300, 27),
            Case("50 queries, 1 block of 8100", dim, 50, 1, 8100),
        )
    ),
    Case("decode, 32 blocks of 256", 64, 1, 32, 256),
    Case("decode, 300 blocks of 27", 64, 1, 300, 27),
    Case("8 decodes share 300 blocks of 27", 64, 1, 300, 27, num_runs=8, shared=True),
    Case("causal prefill of 4096", 64, 4096, 0, 0),
    Case("300 causal encodes of 27", 64, 27, 0, 0, num_runs=300),
]

LINEAR_SHAPES = [(256, 1536), (256, 512), (768, 256), (256, 4096)]
LINEAR_ROWS = [1, 8, 50, 178, 512, 2048]


def torch_inputs(case: Case, q: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Contiguous per-block tensors for torch, queries already rotated: what it does best."""
    rows = q[: case.rows].transpose(0, 1).unsqueeze(0).contiguous()
    lengths = [case.block_tokens] * case.num_blocks or [case.rows]
    shapes = [(1, KV_HEADS, length, case.dim) for length in lengths]
    return [(rows, torch.randn(shape), torch.randn(shape)) for shape in shapes]


def torch_attention(case: Case, inputs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """One fused call per block and the merge by log-sum-exp, for each run."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    for _ in range(case.num_runs):
        parts = [attend(q, k, v, 0.0, case.num_blocks == 0) for q, k, v in inputs]
        if len(parts) > 1:
            outs = torch.stack([out for out, _ in parts])
            weights = torch.softmax(torch.stack([lse for _, lse in parts]), 0)
            (outs * weights.view(*outs.shape[:-1], 1)).sum(0)


def check(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, case: Case) -> None:
    """End the program unless the compiled kernel agrees with the reference."""
    got = cpu.segment_attention(q, k, v, plan, scale)
    expected = reference.segment_attention(q, k, v, plan, scale)
    error = float((got - expected).abs().max())
    if not error < TOLERANCE:
        raise SystemExit(f"{case.name}, dim {case.dim}: off by {error:.2e}; not timed")


def seconds(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median duration of each function, called in turn so that noise meets all alike."""
    times = np.empty((repeats + 1, len(functions)))
    for repeat in range(repeats + 1):
        for i, function in enumerate(functions):
            begin = time.perf_counter()
            function()
            times[repeat, i] = time.perf_counter() - begin
    return [median(column) for column in times[1:].T.tolist()]


def measure(case: Case, repeats: int) -> tuple[float, float]:
    """Seconds of (the compiled kernel, torch)."""
    shared = [case.block_tokens] * case.num_blocks if case.shared else []
    builder = PlanBuilder(HEADS, KV_HEADS, case.dim, shared_lengths=shared)
    q, k, v, plan = builder.build(case.shapes())
    scale = case.dim**-0.5
    check(q, k, v, plan, scale, case)
    inputs = torch_inputs(case, q)
    ours, theirs = seconds(
        [
            lambda: cpu.segment_attention(q, k, v, plan, scale),
            lambda: torch_attention(case, inputs),
        ],
        repeats,
    )
    return ours, theirs


def measure_linear(rows: int, num_in: int, num_out: int, repeats: int) -> list[float]:
    """Seconds of (the compiled layer, with 8-bit weights, torch), after a check of both."""
    weight, x = torch.randn(num_out, num_in), torch.randn(rows, num_in)
    packed, small = cpu_linear.pack_linear(weight), cpu_linear.pack_linear(weight, bits=8)
    for ours in (packed, small):
        expected = F.linear(x.double(), dequantised(ours).double())
        error = float((cpu_linear.linear(x, ours) - expected).abs().max())
        if not error < TOLERANCE * num_in**0.5:
            raise SystemExit(f"{rows} × {num_in} → {num_out}: off by {error:.2e}; not timed")
    return seconds(
        [
            lambda: cpu_linear.linear(x, packed),
            lambda: cpu_linear.linear(x, small),
            lambda: F.linear(x, weight),
        ],
        repeats,
    )


def dequantised(packed: PackedLinear) -> Tensor:
    """Weights [out, in] as the layer uses them."""
    weight = cpu_linear.unpack(packed).weight
    return weight if packed.scale is None else weight * packed.scale[:, None]


def linear_table(threads: int, repeats: int) -> Table:
    """All shapes and numbers of rows."""
    table = Table(title=f"linear layers, {native.instruction_sets()[0]}, {threads} threads")
    columns = ("in → out", "rows", "µs", "GFLOP/s", "int8 µs", "torch µs", "ratio", "int8 ratio")
    for column in columns:
        table.add_column(column, justify="right")
    cases = [(shape, rows) for shape in LINEAR_SHAPES for rows in LINEAR_ROWS]
    for shape, rows in track(cases, "linear", console=Console(stderr=True), transient=True):
        num_in, num_out = shape
        ours, small, theirs = measure_linear(rows, num_in, num_out, repeats)
        table.add_row(
            f"{num_in} → {num_out}",
            str(rows),
            f"{ours * 1e6:.0f}",
            f"{2e-9 * rows * num_in * num_out / ours:.0f}",
            f"{small * 1e6:.0f}",
            f"{theirs * 1e6:.0f}",
            f"{theirs / ours:.2f}",
            f"{theirs / small:.2f}",
        )
    return table


def main(threads: int = 2, repeats: int = 15, only: str = "", linear: bool = True) -> None:
    """Print the tables; ``only`` selects attention's cases by a part of their name."""
    torch.set_num_threads(threads)
    set_num_threads(threads)
    sets = native.instruction_sets()
    table = Table(
        title=f"{sets[0]}, {threads} threads, {HEADS} heads, {KV_HEADS} KV heads, float32"
    )
    for column in ("case", "dim", "ms", "GFLOP/s", "torch ms", "torch GFLOP/s", "ratio"):
        table.add_column(column, justify="left" if column == "case" else "right")
    cases = [case for case in CASES if only in case.name]
    with torch.inference_mode():
        for case in track(cases, "measuring", console=Console(stderr=True), transient=True):
            ours, theirs = measure(case, repeats)
            table.add_row(
                case.name,
                str(case.dim),
                f"{ours * 1e3:.2f}",
                f"{case.gflop / ours:.0f}",
                f"{theirs * 1e3:.2f}",
                f"{case.gflop / theirs:.0f}",
                f"{theirs / ours:.1f}",
            )
        Console().print(table)
        if linear:
            Console(width=100).print(linear_table(threads, repeats))


if __name__ == "__main__":
    typer.run(main)

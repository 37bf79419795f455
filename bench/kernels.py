"""The compiled kernels beside torch's and beside what the machine can do, in the same run.

``python bench/kernels.py [--threads N] [--repeats N] [--quick] [--out FILE.md]``. A kernel whose
answer is not the reference's is not timed: the program ends with status 1. Times are medians of
alternating repeats. *Roof* is the share of the roofline: the time that arithmetic or memory alone
would take (measured with torch's matrix product and sum), over the kernel's. Above 100 % the kernel
beats float32 arithmetic, with AMX tiles, or reads from a cache.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import kernels_elementwise  # noqa: E402
import kernels_linear  # noqa: E402
from kernel_plans import PlanBuilder, RunShape  # noqa: E402
from roofline import Roofline, measure_roofline  # noqa: E402

from game_agent_kernels import Plan, native, set_num_threads  # noqa: E402
from game_agent_kernels.segment_attention import cpu, reference  # noqa: E402

HEADS, KV_HEADS = 4, 4  # the bundled model's
# Before each timing: torch's threads look for more work for some milliseconds after each of its
# calls, on the core that the next one needs.
GAP_S = 0.01
TOLERANCE = 2e-5
TILE_TOLERANCE = 1e-4  # scores of 16 bits, see native.instruction_sets
WEIGHT_TOLERANCE = 1e-2  # weights of 8 bits


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

    @property
    def gbytes(self) -> float:
        """Keys and values, read once; those that runs share once for all of them."""
        keys = self.num_blocks * self.block_tokens or self.rows
        copies = 1 if self.shared else self.num_runs
        return 2e-9 * copies * keys * KV_HEADS * self.dim * 4


CASES = [
    *(
        case
        for dim in (64, 32, 128)
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
QUICK_CASES = [case for case in CASES if case.dim == 64 and case.rows <= 50]

ALL_ROWS = [1, 8, 50, 178, 512, 2048]
QUICK_ROWS = [1, 50, 178]


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
    if not error < tolerance(k.dtype):
        raise SystemExit(f"{case.name}, dim {case.dim}: off by {error:.2e}; not timed")


def tolerance(pages: torch.dtype) -> float:
    """Largest error of attention over pages of this type, see native.instruction_sets."""
    if native.instruction_set() == "avx512_bf16" and pages == torch.bfloat16:
        return WEIGHT_TOLERANCE
    return TILE_TOLERANCE if native.instruction_set() == "amx" else TOLERANCE


def seconds(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median duration of each function, called in turn so that noise meets all alike."""
    times = np.empty((repeats + 1, len(functions)))
    for repeat in range(repeats + 1):
        for i, function in enumerate(functions):
            time.sleep(GAP_S)
            function()  # wakes its threads: that costs as much as a call here, and is not asked for
            begin = time.perf_counter()
            function()
            times[repeat, i] = time.perf_counter() - begin
    return [median(column) for column in times[1:].T.tolist()]


def measure(case: Case, repeats: int) -> tuple[float, float, float]:
    """Seconds of (the compiled kernel, the same over bfloat16 pages, torch)."""
    shared = [case.block_tokens] * case.num_blocks if case.shared else []
    builder = PlanBuilder(HEADS, KV_HEADS, case.dim, shared_lengths=shared)
    q, k, v, plan = builder.build(case.shapes())
    scale = case.dim**-0.5
    k16, v16 = k.bfloat16(), v.bfloat16()
    check(q, k, v, plan, scale, case)
    check(q, k16, v16, plan, scale, case)
    inputs = torch_inputs(case, q)
    ours, half, theirs = seconds(
        [
            lambda: cpu.segment_attention(q, k, v, plan, scale),
            lambda: cpu.segment_attention(q, k16, v16, plan, scale),
            lambda: torch_attention(case, inputs),
        ],
        repeats,
    )
    return ours, half, theirs


def attention_table(cases: Sequence[Case], roof: Roofline, repeats: int) -> Table:
    """All cases, and how the 300 short blocks compare with the long one."""
    table = Table(title="segment_attention")
    columns = (
        "case",
        "dim",
        "ms",
        "GFLOP/s",
        "roof",
        "bf16 KV ms",
        "torch SDPA ms",
        "ratio",
        "bf16",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=True)
    console = Console(stderr=True)
    for case in track(cases, "attention", console=console, transient=True):
        ours, half, theirs = measure(case, repeats)
        table.add_row(
            case.name,
            str(case.dim),
            f"{ours * 1e3:.2f}",
            f"{case.gflop / ours:.0f}",
            f"{roof.seconds(case.gflop, case.gbytes) / ours:.0%}",
            f"{half * 1e3:.2f}",
            f"{theirs * 1e3:.2f}",
            f"{theirs / ours:.1f}",
            f"{theirs / half:.1f}",
        )
    return table


def measure_together(cases: Sequence[Case], repeats: int) -> list[float]:
    """Seconds of the kernel on several cases, taken in turn: over float32 pages, then bfloat16."""
    work = []
    for pages in (torch.float32, torch.bfloat16):
        for case in cases:
            builder = PlanBuilder(HEADS, KV_HEADS, case.dim, dtype=pages)
            q, k, v, plan = builder.build(case.shapes())
            check(q, k, v, plan, case.dim**-0.5, case)
            work.append(partial(cpu.segment_attention, q, k, v, plan, case.dim**-0.5))
    return seconds(work, repeats)


def linear_table(all_rows: Sequence[int], roof: Roofline, repeats: int) -> Table:
    """All shapes and numbers of rows."""
    table = Table(title="linear layers: float32, bfloat16, float16 and int8 weights")
    columns = ("in → out", "rows", "f32 µs", "bf16 µs", "GFLOP/s", "roof", "f16 µs", "int8 µs")
    for column in (*columns, "torch µs", "ratio f32", "bf16", "f16", "int8"):
        table.add_column(column, justify="right", no_wrap=True)
    cases = [(shape, rows) for shape in kernels_linear.SHAPES for rows in all_rows]
    for shape, rows in track(cases, "linear", console=Console(stderr=True), transient=True):
        num_in, num_out = shape
        *ours, theirs = seconds(kernels_linear.layers(rows, num_in, num_out), repeats)
        wide, half, other, small = ours
        gflop = 2e-9 * rows * num_in * num_out
        least = roof.seconds(gflop, 2e-9 * num_in * num_out)
        table.add_row(
            f"{num_in} → {num_out}",
            str(rows),
            *(f"{t * 1e6:.0f}" for t in (wide, half)),
            f"{gflop / half:.0f}",
            f"{least / half:.0%}",
            *(f"{t * 1e6:.0f}" for t in (other, small, theirs)),
            *(f"{theirs / t:.1f}" for t in ours),
        )
    return table


def elementwise_table(all_rows: Sequence[int], roof: Roofline, repeats: int) -> Table:
    """The fused pieces beside the same in torch operations."""
    table = Table(title="fused element-wise kernels")
    for column in ("kernel", "rows", "µs", "roof", "torch µs", "ratio"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for rows in all_rows:
        for name, ours, theirs, num_bytes in kernels_elementwise.cases(rows):
            if not kernels_elementwise.agree(ours, theirs):
                raise SystemExit(f"{name} of {rows} rows differs from its reference; not timed")
            fast, slow = seconds([ours, theirs], repeats)
            table.add_row(
                name,
                str(rows),
                f"{fast * 1e6:.0f}",
                f"{roof.seconds(0, 1e-9 * num_bytes) / fast:.0%}",
                f"{slow * 1e6:.0f}",
                f"{slow / fast:.1f}",
            )
    return table


def main(
    threads: int = 2,
    repeats: int = 15,
    only: str = "",
    quick: bool = False,
    out: Path | None = None,
) -> None:
    """Print the tables; ``only`` selects attention's cases by a part of their name."""
    torch.set_num_threads(threads)
    set_num_threads(threads)
    roof = measure_roofline()
    cases = [case for case in (QUICK_CASES if quick else CASES) if only in case.name]
    all_rows = QUICK_ROWS if quick else ALL_ROWS
    console = Console(width=120, record=True)
    console.print(
        f"{native.instruction_set()}, {threads} threads, {HEADS} heads, {KV_HEADS} KV heads, "
        f"float32. Roofline: {roof.gflops:.0f} GFLOP/s, {roof.gbytes:.0f} GB/s."
    )
    with torch.inference_mode():
        console.print(attention_table(cases, roof, repeats))
        short, long, short_16, long_16 = measure_together(
            [Case("300 short", 64, 50, 300, 27), Case("1 long", 64, 50, 1, 8100)], 3 * repeats
        )
        console.print(
            f"300 blocks of 27 cost {short / long:.2f} × one of 8,100, over bfloat16 KV "
            f"{short_16 / long_16:.2f} ×."
        )
        if not only:
            console.print(linear_table(all_rows, roof, repeats))
            console.print(elementwise_table(all_rows, roof, repeats))
    if out is not None:
        text = "# Kernels\n\n`python bench/kernels.py`\n\n```\n" + console.export_text() + "```\n"
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

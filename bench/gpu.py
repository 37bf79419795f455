"""Everything about a GPU in one unattended run: kernels right, kernels fast, TTFT, decoding.

    python bench/gpu.py --out FOLDER [--minutes 9] [--parts machine,kernels,…]

Llama-3.1-8B's and Qwen3-8B's shapes with random bfloat16 weights, contexts from 50 tokens to 32K.
Each part is a process of its own with a time limit, so that a part that crashes or hangs costs
itself only. Results are written after every measurement, as FOLDER/gpu.json and gpu.md, and at the
end as a picture. What is wrong is not timed, and the program then ends with status 1. ``--smoke``
runs every line on a toy, for machines without a GPU (with TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
import triton

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "kernels")]

import gpu_kernels  # noqa: E402
import gpu_model  # noqa: E402
from gpu_model import Beside  # noqa: E402
from gpu_prompt import Bench  # noqa: E402
from gpu_report import FAILURES, Report, plot, told  # noqa: E402
from gpu_shapes import MODELS  # noqa: E402

from game_agent_kernels import available_backends, kernels_for  # noqa: E402

CONTEXTS = (50, 512, 1024, 2048, 4096, 8192, 16384, 32768)
SOME_CONTEXTS = (512, 8192, 32768)
NPCS_CONTEXT = 8192
LLAMA, QWEN = MODELS


@dataclass(frozen=True)
class Part:
    """A process of its own. ``seconds``: the longest that it may take."""

    run: Callable[[Report, torch.device, bool], None]
    seconds: float


def measure_machine(report: Report, device: torch.device, smoke: bool) -> None:
    """What it is and what it reaches; floors are computed from that."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    modules = (torch, triton, transformers)
    versions = {module.__name__: module.__version__ for module in modules}
    report.add("machine", {"name": name, **versions, **gpu_kernels.machine_figures(device)})


def check_kernels(report: Report, device: torch.device, smoke: bool) -> None:
    """All of them against their references, the dtype and head dim that is timed first."""
    timed = timed_kind(smoke)
    kinds = [timed]
    if not smoke:
        kinds += [(torch.bfloat16, dim) for dim in (32, 64, 80, 256)]
        kinds += [(torch.float16, 128), (torch.float32, 64)]
    dtype = timed[0]
    report.check(
        f"norms, silu_mul, rope_store {dtype}",
        lambda: gpu_kernels.elementwise_error(kernels_for(device, "triton"), device, dtype),
        gpu_kernels.TOLERANCE[dtype],
    )
    for name, some in (("triton", kinds[:1]), ("flash", kinds[:1]), ("triton", kinds[1:])):
        for dtype, dim in some:
            report.check(
                attention_check(name, dtype, dim),
                partial(attention_error, name, device, dtype, dim),
                gpu_kernels.TOLERANCE[dtype],
            )


def timed_kind(smoke: bool) -> tuple[torch.dtype, int]:
    """Dtype and head dim of what is timed."""
    return (torch.float32, 16) if smoke else (torch.bfloat16, 128)


def attention_check(name: str, dtype: torch.dtype, dim: int) -> str:
    return f"{name} segment_attention {dtype} {dim}"


def attention_error(name: str, device: torch.device, dtype: torch.dtype, dim: int) -> float:
    return gpu_kernels.attention_error(kernels_for(device, name), device, dtype, dim)


def right_backends(report: Report, smoke: bool) -> list[str]:
    """Those whose attention is right in what is timed."""
    kind = timed_kind(smoke)
    return [n for n in ("triton", "flash") if report.is_right(attention_check(n, *kind))]


def time_attention(report: Report, device: torch.device, smoke: bool) -> None:
    """Attention alone beside torch's."""
    backends = right_backends(report, smoke)
    shape = gpu_kernels.SMOKE_SHAPE if smoke else gpu_kernels.SHAPE_8B
    for case in gpu_kernels.SMOKE_CASES if smoke else gpu_kernels.CASES:
        run = partial(gpu_kernels.time_case, case, shape, device, backends)
        report.measure("attention", case.name, 8, run)


def tune_attention(report: Report, device: torch.device, smoke: bool) -> None:
    """Other sizes of tiles than those chosen, for what is most often computed."""
    shape = gpu_kernels.SMOKE_SHAPE if smoke else gpu_kernels.SHAPE_8B
    choices = gpu_kernels.CHOICES[:2] if smoke else gpu_kernels.CHOICES
    for case in gpu_kernels.SMOKE_CASES[:1] if smoke else gpu_kernels.TUNED_CASES:
        for choice in choices:
            run = partial(gpu_kernels.time_choice, case, choice, shape, device)
            report.measure("tuning", f"{case.name}, {choice}", 4, run)


def measure_model(name: str, report: Report, device: torch.device, smoke: bool) -> None:
    """One model: logits against Hugging Face's, then TTFT, replies, NPCs, and full prefills."""
    backends = right_backends(report, smoke)
    if "triton" not in backends:
        report.add("skipped", f"{name}: attention is not right")
        return
    loaded = gpu_model.load(name, kernels_for(device, backends[-1]), device, smoke)
    beside = checked_model(report, name, loaded)
    if beside is None:
        return
    contexts = CONTEXTS if name == LLAMA else SOME_CONTEXTS
    contexts = (50, 60) if smoke else contexts
    measure_ttft(report, name, beside, contexts, 1 if smoke else 15)
    few = (60,) if smoke else contexts[-3:] if name == LLAMA else contexts[1:]
    for context in few:
        for replies in (1, 16):
            what = f"{name}, {replies} replies over {context} tokens"
            run = partial(decode_row, report, name, beside, context, replies, 3 if smoke else 48)
            report.measure("decode", what, 8, run)
    for count in (1, 2) if smoke else (1, 8, 32):
        run = partial(npcs_row, report, name, beside, count, smoke)
        report.measure("npcs", f"{name}, {count}", 10, run)
    for context in contexts:
        run = partial(prefill_row, name, beside, context)
        report.measure("prefill", f"{name}, {context} tokens", 15, run)


def checked_model(report: Report, name: str, beside: Beside) -> Beside | None:
    """Logits as near to those of float32 as Hugging Face's are; None where they are not.

    Where only flash attention is wrong, its place is taken by the kernels that are right.
    """

    def is_right(way: str, bench: Bench, tokens: int) -> bool:
        exact = beside.exact[tokens]
        error = partial(gpu_model.distance, bench, exact)
        return report.check(f"{name} {way}, 1 - cosine of logits", error, 3 * exact.noise + 1e-4)

    captured = is_right("captured", beside.captured, 300)
    plain = is_right("two passes", beside.plain, 3000)
    if not is_right("two passes, flash attention where it fits", beside.eager, 3000):
        beside = replace(beside, eager=beside.plain)
    return beside if captured and plain else None


def measure_ttft(
    report: Report, name: str, beside: Beside, contexts: Sequence[int], repeats: int
) -> None:
    """With all blocks cached and with one changed, captured and not."""

    def row(context: int) -> dict[str, Any]:
        return {
            "model": name,
            "context": context,
            **gpu_model.ttft(beside.captured, context, repeats),
            "floor_ms": gpu_model.floor_ms(beside.captured, context, speed(report)),
            "eager_cached_ms": gpu_model.ttft(beside.plain, context, 2)["cached_ms"],
        }

    for context in contexts:
        report.measure("ttft", f"{name}, {context} tokens", 5, partial(row, context))


def prefill_row(name: str, beside: Beside, context: int) -> dict[str, Any]:
    """Everything computed, causally: with flash attention where right, without, and by others."""
    return {
        "model": name,
        "context": context,
        "full_ms": gpu_model.full_prefill(beside.eager, context, 2),
        "full_triton_ms": gpu_model.full_prefill(beside.plain, context, 2),
        "hugging_face_ms": gpu_model.hugging_face_prefill(beside.model, context, 2),
    }


def decode_row(
    report: Report, name: str, beside: Beside, context: int, replies: int, steps: int
) -> dict[str, Any]:
    """Milliseconds a token against the time to read everything once.

    ``floor_each_ms``: against that of every reply reading the context for itself. What is quicker
    cannot have done so.
    """
    ms = gpu_model.step_ms(gpu_model.talk(beside.captured, context, replies, steps))
    floor = gpu_model.floor_ms(beside.captured, context, speed(report))
    return {
        "model": name,
        "context": context,
        "replies": replies,
        "step_ms": ms,
        "tokens_per_s": 1e3 * replies / ms,
        "floor_ms": floor,
        "share_of_floor": floor / ms,
        "floor_each_ms": gpu_model.floor_ms(beside.captured, replies * context, speed(report)),
    }


def npcs_row(report: Report, name: str, beside: Beside, count: int, smoke: bool) -> dict[str, Any]:
    """Characters who answer at once in one world, against one after another; floors as above."""
    context, tokens = (60, 3) if smoke else (NPCS_CONTEXT, 32)
    times = gpu_model.talk(beside.captured, context, count, tokens)
    rows = [row for row in report.rows("npcs") if row["model"] == name and row["npcs"] == 1]
    alone = rows[0]["all_ms"] if rows else sum(times) if count == 1 else None
    return {
        "model": name,
        "context": context,
        "npcs": count,
        "first_ms": times[0],
        "all_ms": sum(times),
        "step_ms": gpu_model.step_ms(times),
        "floor_ms": gpu_model.floor_ms(beside.captured, context, speed(report)),
        "floor_each_ms": gpu_model.floor_ms(beside.captured, count * context, speed(report)),
        "one_after_another_ms": None if alone is None else count * alone,
    }


def speed(report: Report) -> float:
    """GB/s of a copy, as measured at the start."""
    return float(report.rows("machine")[0]["gb_per_s"])


# The most telling first.
PARTS = {
    "machine": Part(measure_machine, 60),
    "kernels": Part(check_kernels, 150),
    "attention": Part(time_attention, 100),
    LLAMA: Part(partial(measure_model, LLAMA), 240),
    QWEN: Part(partial(measure_model, QWEN), 150),
    "tuning": Part(tune_attention, 150),
}


def run_apart(args: argparse.Namespace) -> None:
    """Every part in its process, while there is time."""
    end = time.monotonic() + 60 * args.minutes
    for name in args.parts.split(","):
        left = min(end - time.monotonic(), PARTS[name].seconds)
        # Ten seconds are kept for what is under way when a part's time is over.
        options = ["--out", str(args.out), "--part", name, "--minutes", str((left - 10) / 60)]
        command = [sys.executable, __file__, *options, *(["--smoke"] if args.smoke else [])]
        trouble = "no time left" if left < 30 else None
        if trouble is None:
            try:
                status = subprocess.run(command, timeout=left).returncode
                trouble = f"ended with status {status}" if status else None
            except subprocess.TimeoutExpired:
                trouble = f"stopped after {left:.0f} s"
        if trouble is not None:
            Report(args.out).add("skipped", f"{name}: {trouble}")


def run_part(args: argparse.Namespace) -> None:
    """One part, here."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(args.out, 60 * args.minutes)
    try:
        PARTS[args.part].run(report, device, args.smoke)
    except FAILURES as error:
        report.add("skipped", f"{args.part}: {told(error)}")
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for results")
    parser.add_argument("--minutes", type=float, default=9, help="to be over after so many")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="only these, by commas, added to what is in OUT"
    )
    parser.add_argument("--smoke", action="store_true", help="a toy of everything, no GPU needed")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.parts.split(",")) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if "triton" not in available_backends() or not (args.smoke or torch.cuda.is_available()):
        raise SystemExit("this needs CUDA and Triton; or --smoke with TRITON_INTERPRET=1")
    if args.part:
        run_part(args)
        return
    if args.parts == ",".join(PARTS):
        (args.out / "gpu.json").unlink(missing_ok=True)
    run_apart(args)
    report = Report(args.out)
    plot(report.results, args.out / "gpu.png")
    wrong = [row["what"] for row in report.rows("checks") if not row["right"]]
    if wrong or not report.rows("checks"):
        raise SystemExit(f"wrong, and so not timed: {', '.join(wrong) or 'nothing was checked'}")


if __name__ == "__main__":
    main()

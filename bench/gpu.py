"""Everything about a GPU in one unattended run: kernels right, kernels fast, TTFT, decoding.

    python bench/gpu.py --out FOLDER [--seconds 420]

An 8B-shaped llama with random bfloat16 weights, contexts from 512 to 32K. What is wrong is not
timed, and the program then ends with status 1. Results are written after every measurement, as
FOLDER/gpu.json and FOLDER/gpu.md, so that a run that is cut short leaves what it had. ``--smoke``
runs every line on a toy, for machines without a GPU (with TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from triton.errors import TritonError

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "kernels")]

import gpu_kernels  # noqa: E402
import gpu_model  # noqa: E402
from gpu_model import Bench  # noqa: E402

from game_agent.blocks.pool import PagePool  # noqa: E402
from game_agent.model.decoder import Decoder  # noqa: E402
from game_agent_kernels import available_backends, kernels_for  # noqa: E402

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
# What may go wrong on a device that the program has not seen; each costs one measurement.
FAILURES = (
    AssertionError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TritonError,
    TypeError,
    ValueError,
)
SHAPE_8B = gpu_kernels.Shape(32, 8, 128)
SMOKE_SHAPE = gpu_kernels.Shape(2, 1, 16)


class Report:
    """Results so far, written after every addition, and the time that is left."""

    def __init__(self, folder: Path, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._end = time.monotonic() + seconds
        self.results: dict[str, Any] = {"skipped": [], "wrong": []}

    def add(self, section: str, row: Any) -> None:
        """Append ``row`` to a section and write both files."""
        self.results.setdefault(section, []).append(row)
        print(f"{section}: {json.dumps(row)}", file=sys.stderr, flush=True)
        text = json.dumps(self.results, indent=1)
        (self._folder / "gpu.json").write_text(text + "\n", encoding="utf-8")
        (self._folder / "gpu.md").write_text(markdown(self.results), encoding="utf-8")

    def measure(self, section: str, what: str, needs_s: float, run: Callable[[], Any]) -> None:
        """Add what ``run`` returns; note it as skipped where too little time is left.

        Out of memory, or a failed launch, costs this measurement and not the others.
        """
        if self._end - time.monotonic() < needs_s:
            self.add("skipped", f"{section}: {what}: no time left")
            return
        try:
            self.add(section, run())
        except FAILURES as error:
            self.add("skipped", f"{section}: {what}: {type(error).__name__}: {error}")

    def check(self, what: str, error: Callable[[], float], tolerance: float) -> bool:
        """Whether ``error`` comes out within ``tolerance``; noted either way."""
        row: dict[str, Any] = {"what": what, "tolerance": tolerance}
        try:
            row["error"] = error()
        except FAILURES as failure:
            row |= {"error": float("inf"), "failure": f"{type(failure).__name__}: {failure}"}
        self.add("checks", row)
        right = bool(row["error"] <= tolerance)
        if not right:
            self.add("wrong", what)
        return right


def markdown(results: dict[str, Any]) -> str:
    """All sections as tables."""
    lines = ["# GPU measurements", ""]
    for section, rows in results.items():
        if not rows:
            continue
        lines += [f"## {section}", ""]
        if isinstance(rows[0], dict):
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
            lines += ["| " + " | ".join(cell(row.get(n)) for n in names) + " |" for row in rows]
        else:
            lines += [f"- {row}" for row in rows]
        lines.append("")
    return "\n".join(lines)


def cell(value: object) -> str:
    """A table cell: numbers to four digits."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def right_backends(report: Report, device: torch.device, smoke: bool) -> list[str]:
    """Check all kernels; the backends that are right in the dtype and head dim that is timed."""
    timed = (torch.float32, 16) if smoke else (torch.bfloat16, 128)
    checks = [timed]
    if not smoke:
        checks += [(torch.bfloat16, dim) for dim in (32, 64, 80, 256)]
        checks += [(torch.float16, 128), (torch.float32, 64)]
    right = []
    for name in ("triton", "flash"):
        kernels = kernels_for(device, name)
        for dtype, dim in checks if name == "triton" else [timed]:
            good = report.check(
                f"{name} segment_attention {dtype} {dim}",
                partial(gpu_kernels.attention_error, kernels, device, dtype, dim),
                gpu_kernels.TOLERANCE[dtype],
            )
            if good and (dtype, dim) == timed:
                right.append(name)
    good = report.check(
        f"norms, silu_mul, rope_store {timed[0]}",
        partial(gpu_kernels.elementwise_error, kernels_for(device, "triton"), device, timed[0]),
        gpu_kernels.TOLERANCE[timed[0]],
    )
    return right if good else []


def load(
    report: Report, device: torch.device, backends: list[str], smoke: bool
) -> tuple[Bench, Bench, PreTrainedModel]:
    """(captured passes, eager passes with flash attention where right, Hugging Face's model)."""
    dtype = torch.float32 if smoke else torch.bfloat16
    config = gpu_model.LLAMA_8B
    if smoke:
        config = gpu_model.smaller(config, **gpu_model.SMOKE_SIZES)
    model = gpu_model.hugging_face(config, device, dtype)
    decoder = gpu_model.decoder_of(model, kernels_for(device, "triton"))
    spec = decoder.spec
    num_pages = 200 if smoke else 3 * max(CONTEXTS) // 2 // 16
    pool = PagePool(
        num_pages, spec.num_layers, spec.num_kv_heads, spec.head_dim, dtype=dtype, device=device
    )
    bench = Bench(decoder, pool)
    eager = Bench(Decoder(spec, decoder.weights, kernels_for(device, backends[-1])), pool)
    taken = bench.capture(lambda done, total: print(f"graph {done}/{total}", file=sys.stderr))
    report.add("graphs", {"capture_s": taken})
    return bench, eager, model


def check_model(
    report: Report, bench: Bench, eager: Bench, model: PreTrainedModel, smoke: bool
) -> bool:
    """Logits against Hugging Face's: captured, eager, and in two passes."""
    ways = (("captured", bench, 300), ("eager", eager, 300), ("eager, two passes", eager, 3000))
    right = [
        report.check(
            f"logits {name}, 1 - cosine",
            partial(gpu_model.distance, one, model, 20 if smoke else tokens),
            2e-3,
        )
        for name, one, tokens in ways
    ]
    return all(right)


def measure_ttft(
    report: Report,
    bench: Bench,
    eager: Bench,
    model: PreTrainedModel,
    contexts: Sequence[int],
    repeats: int,
) -> None:
    """TTFT against context: first what is cached, then what is computed in full."""
    plain = replace(bench, graphs=None)

    def cached(context: int) -> dict[str, float]:
        return {
            "context": context,
            **gpu_model.ttft(bench, context, repeats),
            "floor_ms": gpu_model.floor_ms(bench, context, speed(report)),
            "eager_cached_ms": gpu_model.ttft(plain, context, 2)["cached_ms"],
        }

    def full(context: int) -> dict[str, float]:
        return {
            "context": context,
            "full_ms": gpu_model.full_prefill(eager, context, 2),
            "full_triton_ms": gpu_model.full_prefill(plain, context, 2),
            "hugging_face_ms": gpu_model.hugging_face_prefill(model, context, 2),
        }

    for context in contexts:
        report.measure("ttft", f"{context} tokens", 5, partial(cached, context))
    for context in contexts:
        report.measure("prefill", f"{context} tokens", 20, partial(full, context))


def measure_decode(report: Report, bench: Bench, contexts: Sequence[int], steps: int) -> None:
    """Milliseconds a token against the time to read everything once."""
    for context in contexts:
        for batch in (1, 16):
            what = f"{batch} replies over {context} tokens"
            row = partial(decode_row, report, bench, context, batch, steps)
            report.measure("decode", what, 10, row)


def decode_row(
    report: Report, bench: Bench, context: int, batch: int, steps: int
) -> dict[str, Any]:
    """One line of the table of decoding."""
    ms = gpu_model.decode(bench, context, batch, steps)
    floor = gpu_model.floor_ms(bench, context, speed(report))
    return {
        "context": context,
        "replies": batch,
        "step_ms": ms,
        "tokens_per_s": 1e3 * batch / ms,
        "floor_ms": floor,
        "of_floor": ms / floor,
    }


def speed(report: Report) -> float:
    """GB/s of a copy, as measured at the start."""
    return float(report.results["machine"][0]["gb_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for results")
    parser.add_argument("--seconds", type=float, default=420, help="begin nothing after so long")
    parser.add_argument("--smoke", action="store_true", help="a toy of everything, no GPU needed")
    args = parser.parse_args()
    if "triton" not in available_backends() or not (args.smoke or torch.cuda.is_available()):
        raise SystemExit("this needs CUDA and Triton; or --smoke with TRITON_INTERPRET=1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(args.out, args.seconds)
    smoke: bool = args.smoke
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    figures = gpu_kernels.machine_figures(device)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    report.add("machine", {"name": name, **versions, **figures})

    backends = right_backends(report, device, smoke)
    if "triton" in backends:
        shape = SMOKE_SHAPE if smoke else SHAPE_8B
        for case in gpu_kernels.SMOKE_CASES if smoke else gpu_kernels.CASES:
            report.measure(
                "attention",
                case.name,
                10,
                partial(gpu_kernels.time_case, case, shape, device, backends),
            )
        bench, eager, model = load(report, device, backends, smoke)
        if check_model(report, bench, eager, model, smoke):
            repeats, steps = (1, 2) if smoke else (15, 48)
            measure_ttft(report, bench, eager, model, (60,) if smoke else CONTEXTS, repeats)
            measure_decode(report, bench, (60,) if smoke else (2048, 8192, 32768), steps)
    if report.results["wrong"]:
        raise SystemExit(f"wrong, and so not timed: {', '.join(report.results['wrong'])}")


if __name__ == "__main__":
    main()

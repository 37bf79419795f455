"""Compile all that a GPU would run, on a machine without one: errors, registers, shared memory.

    python bench/compile_triton.py [--capability 90] [--all] [--only NAME]

Whole forward passes of real models' shapes are run on tensors without memory (torch's ``meta``
device), and every launch of a Triton kernel is compiled instead of made: for just the types, sizes
and alignments that a GPU would see, down to machine code. Only Triton is needed, which brings its
assembler. ``--all`` adds head dims and dtypes that the shipped shapes do not have. Ends with status
1 where a kernel does not compile, spills registers, or wants more shared memory than a block has.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from transformers import PretrainedConfig
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from gpu_prompt import Bench  # noqa: E402
from gpu_shapes import MODELS, decoder_of, hugging_face, smaller  # noqa: E402

from game_agent.blocks.pool import PagePool  # noqa: E402
from game_agent.model import graphs  # noqa: E402
from game_agent.model.planner import build_step, frame_segments  # noqa: E402
from game_agent_kernels import Kernels  # noqa: E402
from game_agent_kernels.rms_norm import triton as norm  # noqa: E402
from game_agent_kernels.rope_store import triton as store  # noqa: E402
from game_agent_kernels.segment_attention import triton as attention  # noqa: E402
from game_agent_kernels.silu_mul import triton as silu  # noqa: E402

META = torch.device("meta")
PROCESSORS = 132  # of an H100 or H200
# Most shared memory of a block, by compute capability (CUDA's programming guide).
SHARED_BYTES = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
# A register or two that does not fit costs nothing that could be measured.
SPILLED_BYTES = 16
KERNELS = Kernels(
    "triton",
    attention.segment_attention,
    store.rope_store,
    norm.rms_norm,
    norm.add_rms_norm,
    silu.silu_mul,
    capturable=True,
)


def llama(heads: int, kv_heads: int, dim: int, **others: object) -> PretrainedConfig:
    """A llama with these heads."""
    sizes = {"hidden_size": heads * dim, "intermediate_size": 3 * heads * dim, "head_dim": dim}
    heads_of = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return smaller(MODELS["llama-3.1-8b"], **sizes, **heads_of, **others)


# Kernels depend neither on the number of layers nor on that of tokens.
SHIPPED = {
    **MODELS,
    "llama-3.2-1b": llama(32, 8, 64),
    "bundled, preset gpu": llama(6, 6, 64),
    "head dim 256": llama(8, 4, 256),
}
PART = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
OTHERS = {
    **{f"head dim {dim}": llama(6, 2, dim) for dim in (32, 80, 96)},
    "rotary part": llama(6, 2, 80, rope_parameters=PART),
    "float16": llama(8, 2, 128, dtype="float16"),
    **{f"float32, head dim {dim}": llama(4, 2, dim, dtype="float32") for dim in (64, 128, 256)},
}


@dataclass(frozen=True)
class Compiled:
    """One kernel as the assembler left it; bytes per thread (stack) and per block (shared)."""

    kernel: str
    types: str
    sizes: str
    warps: int
    stages: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    products: str

    def problem(self, room: int) -> str | None:
        if self.stack_bytes > SPILLED_BYTES:
            return f"spills {self.stack_bytes} bytes a thread"
        if self.shared_bytes > room:
            return f"wants {self.shared_bytes} bytes of shared memory, a block has {room}"
        return None


class AbsentDriver:
    """Stands for a GPU of a compute capability when Triton asks what to compile for."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(capability: int) -> Iterator[dict[Any, Any]]:
    """Launches inside are compiled only; yields the compiled kernels by what makes them differ."""
    made: dict[Any, Any] = {}
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: object, warmup: bool, **options: object) -> None:
        kernel = run(self, *args, warmup=True, **options)
        made[kernel.hash] = kernel

    driver.set_active(AbsentDriver(capability))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(attention, "num_processors", return_value=PROCESSORS),
            mock.patch.object(graphs, "num_processors", return_value=PROCESSORS),
            mock.patch.object(attention, "shared_bytes", return_value=SHARED_BYTES[capability]),
        ):
            yield made
    finally:
        driver._active = None


def run_passes(config: PretrainedConfig) -> None:
    """Every captured size, and passes that no captured size takes."""
    dtype = config.dtype or torch.bfloat16
    # Two layers: of the last one only the rows that are wanted are computed.
    model = hugging_face(smaller(config, num_hidden_layers=2, vocab_size=1024), META, dtype)
    decoder = decoder_of(model, KERNELS)
    spec = decoder.spec
    pool = PagePool(1024, 2, spec.num_kv_heads, spec.head_dim, dtype=dtype, device=META)
    graphs.DecoderGraphs(decoder, pool, lambda run: (run(), run)[1])
    bench = Bench(decoder, pool)
    for rows, context in ((2048, 0), (700, 512), (1, 4096), (3, 20)):
        with bench.pages(context + rows) as (pages,):
            run = bench.run(np.zeros(rows, np.int32), pages, context, None, 1)
            bench.forward(build_step([run]))
    for rows, count in ((600, 1), (1, 2), (1, 80)):
        talk_in_one_world(bench, rows, count)


def talk_in_one_world(bench: Bench, rows: int, count: int) -> None:
    """``count`` runs over the same block, each at a distance of its own."""
    with bench.pages(200, *[rows] * count) as (block, *owns):
        runs = []
        for i, own in enumerate(owns):
            world = frame_segments([(block, 200)], np.array([200 + i]), bench.decoder.rope)
            runs.append(bench.run(np.zeros(rows, np.int32), own, 0, world, 1))
        bench.forward(build_step(runs))


def describe(kernel: Any) -> Compiled:
    """Read what the assembler made."""
    source, metadata = kernel.src, kernel.metadata
    names = source.fn.arg_names
    kinds = [source.signature[name] for name in names]
    sizes = {names[at[0]]: value for at, value in source.constants.items()}
    shown = {k: v for k, v in sizes.items() if k not in ("half_pad", "dim_pad", "pairs_pad")}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts = {name: int(n) for name, n in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    ptx = kernel.asm["ptx"]
    return Compiled(
        kernel=metadata.name,
        types=" ".join(dict.fromkeys(kind for kind in kinds if kind.startswith("*"))),
        sizes=" ".join(f"{name}={value}" for name, value in shown.items()),
        warps=metadata.num_warps,
        stages=metadata.num_stages,
        registers=counts["REG"],
        stack_bytes=counts["STACK"],
        shared_bytes=metadata.shared,
        products=next((name for name in ("wgmma", "mma.sync", "fma.rn.f32") if name in ptx), ""),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, choices=sorted(SHARED_BYTES))
    parser.add_argument("--only", choices=[*SHIPPED, *OTHERS], help="this shape alone")
    parser.add_argument("--all", action="store_true", help="rarer head dims and dtypes as well")
    args = parser.parse_args()
    room = SHARED_BYTES[args.capability]
    problems = 0
    seen: set[str] = set()
    shapes = SHIPPED | OTHERS if args.all or args.only else SHIPPED
    for name in [args.only] if args.only else shapes:
        with compiling(args.capability) as made:
            run_passes(shapes[name])
        print(f"\n## {name}\n", flush=True)
        for compiled in [describe(made[key]) for key in made if key not in seen]:
            problem = compiled.problem(room)
            problems += problem is not None
            print("- " + "; ".join(f"{k} {v}" for k, v in asdict(compiled).items()))
            if problem is not None:
                print(f"  **{problem}**")
        seen |= set(made)
    if problems:
        raise SystemExit(f"{problems} kernels would not run well")


if __name__ == "__main__":
    main()

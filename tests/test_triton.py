"""Without a GPU: the kernels' tests in Triton's interpreter, and their compilation for one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

INTERPRETED = ["tests/test_triton_kernels.py", "tests/test_graphs_triton.py"]
OLD_INTERPRETER = (
    np.lib.NumpyVersion(np.__version__) >= "2.4.0"
    and np.lib.NumpyVersion(triton.__version__) < "3.9.0"
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="they run on the GPU itself")
@pytest.mark.skipif(OLD_INTERPRETER, reason="this Triton's interpreter needs numpy below 2.4")
def test_the_kernels_in_the_interpreter(pytestconfig: pytest.Config) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *INTERPRETED],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


COMPILE = """
import sys
sys.path[:0] = ["kernels"]
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from game_agent_kernels.segment_attention.triton import _attend, _merge

def compile(kernel, types, **constants):
    names = kernel.arg_names[: len(types)]
    signature = dict(zip(names, types)) | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types) if t[0] == "*"}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": 8, "num_stages": 3}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)

pages = ["*bf16"] * 4
sizes = dict(heads=32, kv_heads=8, dim=128, packed=128, dim_pad=128)
made = compile(
    _attend, [*pages, "*fp32", "*fp32", "*i32", "*fp32", "fp32"],
    half=64, rotates=True, keys=64, half_pad=64, **sizes,
)
ptx = made.asm["ptx"]
print("wgmma" in ptx, "cp.async.cg.shared.global" in ptx, made.metadata.shared < 227 * 1024)
compile(_merge, ["*bf16", "*fp32", "*fp32", "*i32"], group_pad=4, **sizes)
"""


def test_attention_compiles_for_hopper(pytestconfig: pytest.Config) -> None:
    """For tensor cores, with wide asynchronous loads, within a block's shared memory."""
    result = subprocess.run(
        [sys.executable, "-c", COMPILE],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == ["True", "True", "True"]

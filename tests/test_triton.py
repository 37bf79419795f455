"""Without a GPU: the kernels' tests in Triton's interpreter, and their compilation for one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
INTERPRETED = [
    f"tests/test_{name}.py"
    for name in ("triton_kernels", "triton_shared", "graphs_triton", "graphs_steps")
]
OLD_INTERPRETER = (
    np.lib.NumpyVersion(np.__version__) >= "2.4.0"
    and np.lib.NumpyVersion(triton.__version__) < "3.9.0"
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="they run on the GPU itself")
@pytest.mark.skipif(OLD_INTERPRETER, reason="this Triton's interpreter needs numpy below 2.4")
def test_the_kernels_in_the_interpreter(pytestconfig: pytest.Config) -> None:
    result = subprocess.run(
        # Triton 3.6 makes scalars of arrays in a way that numpy has announced to end.
        [*PYTEST, "-W", "ignore:Conversion of an array:DeprecationWarning", *INTERPRETED],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


def test_all_that_a_pass_launches_compiles_for_hopper(pytestconfig: pytest.Config) -> None:
    """In 16 bits attention is on tensor cores; nothing spills or wants too much shared memory."""
    result = subprocess.run(
        [sys.executable, "bench/compile_triton.py", "--only", "qwen3-8b"],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    kernels = [line for line in result.stdout.splitlines() if line.startswith("- kernel")]
    names = {line.split()[2].rstrip(";") for line in kernels}
    assert names == {"attend_items", "merge_partials", "_norm", "_rope_store", "_silu_mul"}
    attention = [line for line in kernels if "kernel attend_items" in line]
    assert all(line.endswith(("products wgmma", "products mma.sync")) for line in attention)
    assert any("packed=128" in line and "wgmma" in line for line in attention)

"""Which kernels are picked, with the compiled extension and without."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from game_agent_kernels import available_backends, kernels_for, set_num_threads

WITHOUT_EXTENSION = """
import logging, sys
sys.modules["game_agent_kernels._cpu"] = None
sys.path.insert(0, "kernels")
logging.basicConfig(format="%(levelname)s %(message)s")
import torch
from game_agent_kernels import available_backends, kernels_for
print(kernels_for(torch.device("cpu")).name, kernels_for(torch.device("cpu")).name)
print(*available_backends())
"""


def test_the_fastest_is_picked() -> None:
    fastest = "cpu" if "cpu" in available_backends() else "rope_shift"
    assert kernels_for(torch.device("cpu")).name == fastest
    assert kernels_for(torch.device("cuda")).name != "cpu"
    assert kernels_for(torch.device("cpu"), "reference").name == "reference"


def test_unknown_backend_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"no backend 'cpp' here.*reference, rope_shift"):
        kernels_for(torch.device("cpu"), "cpp")


def test_at_least_one_thread() -> None:
    with pytest.raises(ValueError, match="at least 1 thread"):
        set_num_threads(0)


def test_without_the_extension_one_warning_says_what_to_do(pytestconfig: pytest.Config) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTENSION],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
        check=True,
    )
    assert result.stdout.split() == ["rope_shift", "rope_shift", "reference", "rope_shift"]
    assert result.stderr.count("WARNING") == 1
    assert "compiler" in result.stderr

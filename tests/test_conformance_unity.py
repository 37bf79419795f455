"""The C# client for Unity performs the conformance script, on mono and without Unity and NetMQ."""

from __future__ import annotations

import shutil
import subprocess
from ctypes.util import find_library
from pathlib import Path

import pytest
from conformance.serving import check_conformance, conformance_runtime

SOURCE = Path(__file__).parent.parent / "clients" / "unity"
PATIENCE_S = 120.0
HAS_MONO = shutil.which("mcs") is not None and shutil.which("mono") is not None


def built(program: Path, *sources: str) -> list[str]:
    """The command that runs a program of these sources and of ``Session.cs``."""
    files = [
        SOURCE / "Runtime" / "Session.cs",
        *(SOURCE / "Conformance~" / name for name in sources),
    ]
    command = ["mcs", "-langversion:7", "-warnaserror", "-r:System.Core", f"-out:{program}"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return ["mono", str(program)]


@pytest.mark.skipif(
    not HAS_MONO or find_library("zmq") is None,
    reason="no mono or no libzmq: apt-get install mono-mcs mono-runtime libzmq5",
)
def test_the_unity_client_conforms(tmp_path: Path) -> None:
    command = built(tmp_path / "runner.exe", "Runner.cs")
    (tmp_path / "keys").mkdir()
    with conformance_runtime() as runtime:
        check_conformance(command, runtime, tmp_path / "keys")


@pytest.mark.skipif(not HAS_MONO, reason="no mono: apt-get install mono-mcs mono-runtime")
def test_what_needs_a_clock_and_a_socket_in_the_tests_hand(tmp_path: Path) -> None:
    command = built(tmp_path / "test.exe", "SessionTest.cs")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr

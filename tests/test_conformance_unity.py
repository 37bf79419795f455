"""The C# client for Unity performs the conformance script, on mono.

Unity, NetMQ and MessagePack-CSharp are not there: in ``Conformance~`` small files of the same names
have as much of them as the client uses.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from pathlib import Path

import pytest
from conformance.play import play
from conformance.serving import check_conformance, conformance_runtime, serving

from game_agent import Runtime

SOURCE = Path(__file__).parent.parent / "clients" / "unity"
STAND_INS = ("UnityEngine.cs", "NetMQ.cs", "MessagePack.cs")
PATIENCE_S = 120.0
HAS_MONO = shutil.which("mcs") is not None and shutil.which("mono") is not None
needs_mono = pytest.mark.skipif(
    not HAS_MONO, reason="no mono: apt-get install mono-mcs mono-runtime"
)
needs_libzmq = pytest.mark.skipif(
    find_library("zmq") is None, reason="no libzmq: apt-get install libzmq5"
)


def built(program: Path, runtime: Sequence[str], *conformance: str) -> list[str]:
    """The command that runs a program of these sources."""
    files = [SOURCE / "Runtime" / name for name in runtime]
    files += [SOURCE / "Conformance~" / name for name in conformance]
    command = ["mcs", "-langversion:7", "-warnaserror", "-r:System.Core", f"-out:{program}"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return ["mono", str(program)]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with conformance_runtime() as runtime:
        yield runtime


@needs_mono
@needs_libzmq
def test_the_session_conforms(runtime: Runtime, tmp_path: Path) -> None:
    sources = ("Wire.cs", "Runner.cs", "SessionRunner.cs")
    command = built(tmp_path / "runner.exe", ["Session.cs"], *sources)
    (tmp_path / "keys").mkdir()
    check_conformance(command, runtime, tmp_path / "keys")


@needs_mono
@needs_libzmq
def test_the_component_conforms(runtime: Runtime, tmp_path: Path) -> None:
    sources = ("Wire.cs", "Runner.cs", "ClientRunner.cs", *STAND_INS)
    command = built(tmp_path / "client.exe", ["Session.cs", "Client.cs"], *sources)
    with serving(runtime) as endpoint:
        play(command, endpoint)
    # An endpoint that is none ends no thread unheard.
    with subprocess.Popen(
        [*command, "nonsense"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert b"InvalidOperationException" in process.stderr.readline()
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


@needs_mono
def test_what_needs_a_clock_and_a_socket_in_the_tests_hand(tmp_path: Path) -> None:
    command = built(tmp_path / "test.exe", ["Session.cs"], "SessionTest.cs")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr

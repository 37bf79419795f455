"""The JavaScript client performs the conformance script; its example runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conformance.serving import check_conformance, conformance_runtime, serving
from fakes import FakeRuntime
from serving import forget_sessions, running

SOURCE = Path(__file__).parent.parent / "clients" / "js"
PATIENCE_S = 60.0


pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="no node: install Node.js 18 or later"),
    pytest.mark.skipif(
        not (SOURCE / "node_modules" / "zeromq").exists(),
        reason="no zeromq for node: npm --prefix clients/js ci",
    ),
]


def test_the_javascript_client_conforms(tmp_path: Path) -> None:
    with conformance_runtime() as runtime:
        check_conformance(["node", str(SOURCE / "conformance.js")], runtime, tmp_path)
        with serving(runtime) as endpoint:
            example = subprocess.run(
                ["node", SOURCE / "example.js", endpoint],
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
    assert example.returncode == 0
    assert example.stderr == ""
    assert "first token after" in example.stdout


def test_after_a_silence_of_the_program_a_forgotten_session_shows() -> None:
    runtime = FakeRuntime()
    with running(runtime) as server:
        program = subprocess.Popen(
            ["node", SOURCE / "slept.test.js", server.endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert program.stdin is not None
        assert program.stdout is not None
        with program:
            while not runtime.asks:
                assert program.poll() is None
                time.sleep(0.01)
            runtime.step()
            assert program.stdout.readline() == "ann \n"
            forget_sessions(server)
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.stdout.readline() == "unavailable\n"
            assert program.wait(PATIENCE_S) == 0

"""A program may end while an answer is on its way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from game_agent.runtime import Runtime
runtime = Runtime.load(sys.argv[1], device="cpu")
runtime.world("w", {})
runtime.agent("ann", world="w", profile="Ann.").say("Bob", "Hello.", max_tokens=2000)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_the_interpreter_ends_in_the_middle_of_a_step(tiny_checkpoint: Path, attempt: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tiny_checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""The examples of docs/protocol.md run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fakes import FakeRuntime
from serving import PATIENCE_S, running

ROOT = Path(__file__).parent.parent


def test_the_examples_run() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3
    with running(FakeRuntime(is_instant=True)) as server:
        for example in examples:
            code = example.replace("tcp://127.0.0.1:5761", server.endpoint)
            code = code.replace("Client()", f"Client({server.endpoint!r})")
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
            assert done.returncode == 0, done.stderr
            assert "Mia heard Do you have a room?." in done.stdout

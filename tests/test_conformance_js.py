"""The JavaScript client performs the conformance script; its example runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conformance.serving import check_conformance, conformance_runtime, serving

SOURCE = Path(__file__).parent.parent / "clients" / "js"
PATIENCE_S = 60.0


@pytest.mark.skipif(shutil.which("node") is None, reason="no node: install Node.js 18 or later")
@pytest.mark.skipif(
    not (SOURCE / "node_modules" / "zeromq").exists(),
    reason="no zeromq for node: npm --prefix clients/js ci",
)
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

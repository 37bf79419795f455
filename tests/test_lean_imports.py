"""What runs on a bare GPU machine asks for none of the packages of servers, grammars and games."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABSENT = (
    "flash_attn",
    "gguf",
    "google_re2",
    "hdrh",
    "jsonpatch",
    "jsonschema",
    "llama_cpp",
    "llguidance",
    "lm_eval",
    "msgspec",
    "pokerkit",
    "re2",
    "textworld",
    "zmq",
)
IMPORT = """
import importlib, sys

# None in its place says that a module is not there, to `import` and to those who only ask.
sys.modules.update(dict.fromkeys(sys.argv[2].split(",")))
sys.path[:0] = ["bench", "tests", "kernels", "demos", "."]
for module in sys.argv[1].split(","):
    importlib.import_module(module)
"""


MODULES = (
    "game_agent.model.runner",
    "game_agent.training.bundled",
    "gpu_model",
    "kernel_plans",
    "test_graphs",
)


def test_modules_that_a_gpu_needs(pytestconfig: pytest.Config) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT, ",".join(MODULES), ",".join(ABSENT)],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
    )
    assert result.returncode == 0, result.stderr[-1500:]

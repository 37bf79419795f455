"""Where the Triton kernels are tested: on a GPU, and without one in Triton's interpreter.

The interpreter is chosen when Triton is first imported, so ``test_triton.py`` runs the tests that
import this module in a process of their own. Elsewhere they are skipped.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if DEVICE.type == "cpu" and not INTERPRETS:
    pytest.skip("no GPU; test_triton.py runs these interpreted", allow_module_level=True)

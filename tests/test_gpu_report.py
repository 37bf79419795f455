"""What a run on a GPU leaves behind when some of it goes wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from bench.gpu_report import Report, markdown


def fail() -> float:
    raise RuntimeError("CUDA error:\n  an illegal memory access")


def test_a_failure_costs_its_measurement_only(tmp_path: Path) -> None:
    report = Report(tmp_path)
    report.measure("ttft", "50 tokens", 0, fail)
    report.measure("ttft", "512 tokens", 0, lambda: {"context": 512, "cached_ms": 1.25})
    again = Report(tmp_path, seconds=1)
    assert again.rows("ttft") == [{"context": 512, "cached_ms": 1.25}]
    assert again.rows("skipped") == [
        "ttft: 50 tokens: RuntimeError: CUDA error: an illegal memory access"
    ]
    again.measure("ttft", "1024 tokens", 60, fail)
    assert again.rows("skipped")[-1] == "ttft: 1024 tokens: no time left"
    assert "| 512 | 1.25 |" in (tmp_path / "gpu.md").read_text("utf-8")


@pytest.mark.parametrize(("error", "right"), [(0.5, True), (1.5, False), (math.nan, False)])
def test_checks_are_found_again(tmp_path: Path, error: float, right: bool) -> None:
    assert Report(tmp_path).check("norms", lambda: error, 1.0) == right
    assert Report(tmp_path).is_right("norms") == right
    # JSON knows no NaN.
    json.loads((tmp_path / "gpu.json").read_text("utf-8"), parse_constant=pytest.fail)


def test_what_fails_is_not_right(tmp_path: Path) -> None:
    report = Report(tmp_path)
    assert not report.check("norms", fail, 1.0)
    assert not report.is_right("norms")
    assert "illegal memory access" in markdown(report.results)

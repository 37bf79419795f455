"""What a run on a GPU has found so far: kept in files after every measurement."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triton.errors import TritonError

try:
    import matplotlib
    from matplotlib import pyplot
except ImportError:
    matplotlib = None

# What may go wrong on a device that the program has not seen; each costs one measurement.
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TritonError,
    TypeError,
    ValueError,
)


class Report:
    """FOLDER/gpu.json and FOLDER/gpu.md: what is there is gone on with. And the time that is left.

    So every part of a run may be a process of its own.
    """

    def __init__(self, folder: Path, seconds: float = math.inf) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._end = time.monotonic() + seconds
        path = folder / "gpu.json"
        self.results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def rows(self, section: str) -> list[Any]:
        """What a section holds so far."""
        rows: list[Any] = self.results.get(section, [])
        return rows

    def add(self, section: str, row: Any) -> None:
        """Append ``row`` to a section and write both files, each whole or not at all."""
        self.results.setdefault(section, []).append(row)
        print(f"{section}: {json.dumps(row)}", file=sys.stderr, flush=True)
        texts = {"gpu.json": json.dumps(self.results, indent=1) + "\n"}
        texts["gpu.md"] = markdown(self.results)
        for name, text in texts.items():
            part = self._folder / f"{name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(self._folder / name)

    def measure(self, section: str, what: str, needs_s: float, run: Callable[[], Any]) -> None:
        """Add what ``run`` returns; note it as skipped where too little time is left.

        Out of memory, or a failed launch, costs this measurement and not the others.
        """
        if self._end - time.monotonic() < needs_s:
            self.add("skipped", f"{section}: {what}: no time left")
            return
        try:
            self.add(section, run())
        except FAILURES as error:
            self.add("skipped", f"{section}: {what}: {told(error)}")

    def check(self, what: str, error: Callable[[], float], tolerance: float) -> bool:
        """Whether ``error`` comes out within ``tolerance``; noted either way."""
        row: dict[str, Any] = {"what": what, "tolerance": tolerance}
        right = False
        try:
            found = error()
        except FAILURES as failure:
            row["error"] = told(failure)
        else:
            right = found <= tolerance
            row["error"] = found if math.isfinite(found) else str(found)
        row["right"] = right
        self.add("checks", row)
        return right

    def is_right(self, what: str) -> bool:
        """Whether a check of that name has gone well."""
        return any(row["what"] == what and row["right"] for row in self.rows("checks"))


def told(error: BaseException) -> str:
    """An error in one line, cut where a compiler has said too much."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:600]}"


def markdown(results: dict[str, Any]) -> str:
    """All sections as tables."""
    lines = ["# GPU measurements", ""]
    for section, rows in results.items():
        if not rows:
            continue
        lines += [f"## {section}", ""]
        if isinstance(rows[0], dict):
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
            lines += ["| " + " | ".join(cell(row.get(n)) for n in names) + " |" for row in rows]
        else:
            lines += [f"- {row}" for row in rows]
        lines.append("")
    return "\n".join(lines)


def cell(value: object) -> str:
    """A table cell: numbers to four digits."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def plot(results: dict[str, Any], path: Path) -> None:
    """TTFT against context, a picture for each model; none without matplotlib."""
    if matplotlib is None:
        return
    matplotlib.use("Agg")
    rows = [*results.get("ttft", []), *results.get("prefill", [])]
    models = list(dict.fromkeys(row["model"] for row in rows))
    if not models:
        return
    figure, axes = pyplot.subplots(1, len(models), figsize=(6 * len(models), 4), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        names = [name for row in rows for name in row if name.endswith("_ms")]
        for name in dict.fromkeys(names):
            points = [(r["context"], r[name]) for r in rows if r["model"] == model and name in r]
            axis.plot(*zip(*points, strict=True), marker="o", label=name[:-3].replace("_", " "))
        axis.set(title=model, xscale="log", yscale="log", xlabel="tokens", ylabel="ms")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)

"""A soak's figures as files for machines and for people."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 720, 160
STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child, td:first-child { text-align: left; }
svg { background: #f6f6f6; } polyline { fill: none; stroke: #26a; stroke-width: 1.5; }"""
TITLES = {
    "ttft": "Time to first token, from the intended send time",
    "total": "Whole answers, from the intended send time",
    "tick": "State ticks, from the intended send time",
}
COLUMNS = ("count", "p50_ms", "p99_ms", "p99_9_ms", "max_ms")


def write_report(result: dict[str, Any], out: Path) -> None:
    """Write ``soak.json`` and ``soak.html`` (one file, no scripts) into the folder ``out``."""
    (out / "soak.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "soak.html").write_text(page(result), encoding="utf-8")


def page(result: dict[str, Any]) -> str:
    """The report as HTML."""
    counts, settings = result["counts"], result["settings"]
    parts = [
        f"<p><b>{'Clean' if result['is_clean'] else 'NOT CLEAN'}</b>: {counts['sent']:,} requests,"
        f" {counts['answered']:,} answered, {counts['dropped']} dropped, {counts['doubled']}"
        f" doubled, {counts['broken_texts']} broken texts, {sum(counts['errors'].values())} errors;"
        f" {counts['deadline_misses']} deadline misses; {counts['reconnects']} reconnects.</p>",
        table("Settings", ("setting", "value"), settings.items()),
        table("Run", ("figure", "value"), _figures(result)),
    ]
    for what, phases in result["latencies"].items():
        rows = [(phase, *(_number(row[c]) for c in COLUMNS)) for phase, row in phases.items()]
        parts.append(table(TITLES[what], ("phase", *COLUMNS), rows))
    parts.append(table("Ends of asks", ("finish_reason", "asks"), counts["finish_reasons"].items()))
    times = [sample["at_s"] for sample in result["samples"]]
    for name, scale, unit in (
        ("rss_bytes", 2**20, "MiB"),
        ("num_fds", 1, ""),
        ("cpu_share", 1, ""),
    ):
        values = [sample[name] / scale for sample in result["samples"]]
        parts.append(chart(f"{name.replace('_bytes', '')} {unit}", times, values))
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Soak</title>\n'
        f"<style>{STYLE}</style>\n<h1>Soak</h1>\n{''.join(parts)}</html>\n"
    )


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table under a heading."""
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f"<h2>{html.escape(title)}</h2><table><tr>{_cells('th', head)}</tr>{body}</table>\n"


def chart(title: str, times: Sequence[float], values: Sequence[float]) -> str:
    """A line over time as SVG, from 0 to its highest value; nothing if there are no values."""
    if not values:
        return ""
    top, end = max(values) or 1, times[-1] or 1
    points = " ".join(
        f"{WIDTH * at / end:.1f},{HEIGHT * (1 - value / top):.1f}"
        for at, value in zip(times, values, strict=True)
    )
    return (
        f"<h2>{html.escape(title)}</h2><p>first {values[0]:,.1f}, last {values[-1]:,.1f}, "
        f'highest {max(values):,.1f}</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">'
        f'<polyline points="{points}"/></svg>\n'
    )


def _figures(result: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("model", result["model"].get("name", "")),
        ("system", result["machine"]["system"]),
        ("CPUs", result["machine"]["num_cpus"]),
        ("context tokens, mean", result["context_tokens_mean"]),
        ("p99 TTFT, background encodes over steady", result["ttft_p99_encodes_over_steady"]),
        ("CPU share of the load generator", result["generator_cpu_share"]),
    ]


def _cells(tag: str, values: Iterable[object]) -> str:
    return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"

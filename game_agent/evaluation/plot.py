"""A picture of a report: means with their intervals, and a map of types."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from game_agent.errors import Unavailable
from game_agent.evaluation.report import Report


def figure_module() -> Any:
    """What draws. Raises :class:`Unavailable` without matplotlib."""
    try:
        return import_module("matplotlib.figure")
    except ImportError:
        raise Unavailable(
            "plots need matplotlib; install it with: pip install 'game-agent[bench]'"
        ) from None


def draw(report: Report, path: Path) -> None:
    """Write a PNG: on top a row for each model and way, below a map of types, in percent.

    Raises :class:`Unavailable` without matplotlib.
    """
    figures = figure_module()
    num_columns, num_types = len(report.columns), len(report.types)
    heights = [0.6 + 0.32 * num_columns, *([0.9 + 0.3 * num_types] if num_types else [])]
    width = max(7.5, 3.5 + 0.75 * num_columns)
    figure = figures.Figure(figsize=(width, sum(heights) + 1.2), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_means(report, axes[0])
    if num_types:
        _draw_types(report, figure, axes[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _titles(report: Report) -> list[str]:
    return [f"{model}, {way}" for model, way in report.columns]


def _draw_means(report: Report, axis: Any) -> None:
    models = list(dict.fromkeys(model for model, _ in report.columns))
    for row, column in enumerate(report.columns):
        found = report.interval(column)
        if found is None:
            continue
        below, above = found.mean - found.low, found.high - found.mean
        axis.errorbar(
            100 * found.mean,
            row,
            xerr=[[100 * below], [100 * above]],
            fmt="o",
            capsize=4,
            color=f"C{models.index(column[0])}",
        )
    axis.set_yticks(range(len(report.columns)), _titles(report))
    axis.set_ylim(len(report.columns) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel(f"{report.metric_title}, percent, with 95 % intervals")


def _draw_types(report: Report, figure: Any, axis: Any) -> None:
    rows = []
    for kind in report.types:
        found = [report.interval(column, kind) for column in report.columns]
        rows.append([float("nan") if each is None else 100 * each.mean for each in found])
    image = axis.imshow(rows, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value == value:  # not NaN
                color = "black" if value > 60 else "white"
                axis.text(x, y, f"{value:.0f}", ha="center", va="center", color=color, fontsize=8)
    axis.set_yticks(range(len(report.types)), report.types)
    axis.set_xticks(
        range(len(report.columns)), _titles(report), rotation=35, ha="right", rotation_mode="anchor"
    )
    figure.colorbar(image, ax=axis, fraction=0.03, label=f"{report.metric_title}, percent")

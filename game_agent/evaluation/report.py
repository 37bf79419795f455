"""Answers as tables: by model and way, and by type of question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from game_agent.errors import InvalidInput
from game_agent.evaluation.answers import Answer
from game_agent.evaluation.metrics import TITLES
from game_agent.evaluation.records import Record
from game_agent.evaluation.ways import LEGEND
from game_agent.intervals import Interval, difference, interval

METRICS = ("substring", "f1", "exact")
Column = tuple[str, str]
"""A model's name and a way's."""


@dataclass(frozen=True)
class Report:
    """Answers to ``records``, ready to be read.

    metric: the one of ``METRICS`` that types are compared in
    """

    answers: Mapping[Column, Sequence[Answer]]
    groups: Mapping[str, int]
    metric: str

    @staticmethod
    def of(answers: Sequence[Answer], records: Sequence[Record], metric: str) -> Report:
        columns: dict[Column, list[Answer]] = {}
        for answer in answers:
            columns.setdefault((answer.model, answer.way), []).append(answer)
        places: dict[tuple[str, ...], int] = {}
        groups = {r.id: places.setdefault(r.blocks, len(places)) for r in records}
        return Report(columns, groups, metric)

    @property
    def columns(self) -> list[Column]:
        return list(self.answers)

    @property
    def types(self) -> list[str]:
        """All types of question, in order of the alphabet; without those that have none."""
        return sorted({each.type for answers in self.answers.values() for each in answers} - {""})

    @property
    def metric_title(self) -> str:
        return TITLES[METRICS.index(self.metric)]

    def count(self, column: Column, kind: str | None = None) -> int:
        return len(self._chosen(column, kind))

    def interval(
        self, column: Column, kind: str | None = None, metric: str | None = None
    ) -> Interval | None:
        """Of one column's mean over one type, or over all; None where nothing was asked."""
        chosen = self._chosen(column, kind)
        if not chosen:
            return None
        values = [getattr(answer.scores, metric or self.metric) for answer in chosen]
        return interval(values, [self.groups[answer.id] for answer in chosen])

    def difference(self, column: Column) -> Interval | None:
        """Of the mean of ``column`` less the first column's, on what both have answered."""
        first = {a.id: getattr(a.scores, self.metric) for a in self.answers[self.columns[0]]}
        both = [answer for answer in self.answers[column] if answer.id in first]
        if not both:
            return None
        values = [getattr(a.scores, self.metric) - first[a.id] for a in both]
        return difference(values, [self.groups[a.id] for a in both])

    def _chosen(self, column: Column, kind: str | None) -> list[Answer]:
        return [a for a in self.answers[column] if kind is None or a.type == kind]


def check_metric(metric: str | None) -> None:
    """Raises :class:`InvalidInput` for an unknown one."""
    if metric is not None and metric not in METRICS:
        raise InvalidInput(f"--metric must be one of {', '.join(METRICS)}, not {metric!r}")


def markdown(report: Report, title: str, notes: Sequence[str]) -> str:
    """The report as Markdown; ``notes``: paragraphs on what was measured and how."""
    lines = [f"# {title}", ""]
    for note in [*notes, _explanation(report), LEGEND]:
        lines += [note, ""]
    lines += _overall(report)
    if report.types:
        lines += ["", f"## By type: {report.metric_title}", "", *by_type(report)]
    return "\n".join(lines) + "\n"


def _explanation(report: Report) -> str:
    return (
        "Percent, with 95 % intervals in brackets (bootstrap over groups of questions that share "
        f"their blocks). *Difference*: of {report.metric_title} to the first row, in points, on "
        "the same questions. Substr-EM: a right answer is part of the reply; F1: of words; exact: "
        "the reply is a right answer; all three after SQuAD's normalisation. Replies are greedy."
    )


def _overall(report: Report) -> Iterator[str]:
    yield f"| model | mode | asked | {' | '.join(TITLES)} | difference |"
    yield "|---|---|---:|" + "---:|" * (len(TITLES) + 1)
    for column in report.columns:
        cells = [_cell(report.interval(column, None, metric)) for metric in METRICS]
        compared = "" if column == report.columns[0] else _cell(report.difference(column), "+.1f")
        yield " | ".join(
            ["| " + column[0], column[1], str(report.count(column)), *cells, compared + " |"]
        )


def by_type(report: Report) -> Iterator[str]:
    """The lines of a table of means with intervals: a row for each type of question."""
    titles = [f"{model}, {way}" for model, way in report.columns]
    yield f"| type | asked | {' | '.join(titles)} |"
    yield "|---|---:|" + "---:|" * len(titles)
    for kind in report.types:
        cells = [_cell(report.interval(column, kind), ".0f") for column in report.columns]
        asked = max(report.count(column, kind) for column in report.columns)
        yield " | ".join(["| " + kind.replace("|", "\\|"), str(asked), *cells]) + " |"


def _cell(found: Interval | None, form: str = ".1f") -> str:
    return "–" if found is None else found.text(form)

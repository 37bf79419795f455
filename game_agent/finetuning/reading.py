"""Training data from JSON Lines files, and what is wrong with it: by file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from game_agent.errors import InvalidInput
from game_agent.finetuning.records import Record, Segmentation, parse_record

OnBadData = Literal["stop", "skip"]
ON_BAD_DATA: tuple[OnBadData, ...] = get_args(OnBadData)


@dataclass(frozen=True)
class Problem:
    """A record that cannot be learned from. where: file and line; reason: for people."""

    where: str
    reason: str


def read_records(
    files: Sequence[Path], segmentation: Segmentation
) -> tuple[list[Record], list[Problem]]:
    """All records of ``files`` in order, and what is wrong with the others.

    Raises :class:`InvalidInput` for a file that cannot be read.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    for where, line in _lines(files):
        try:
            records.append(parse_record(_json(line), segmentation, where))
        except InvalidInput as error:
            problems.append(Problem(where, error.message))
    return records, problems


def check_problems(problems: Sequence[Problem], num_good: int, on_bad_data: OnBadData) -> None:
    """Raises :class:`InvalidInput` where training must not go on with what is good."""
    if problems and on_bad_data == "stop":
        raise InvalidInput(
            f"{problems[0].where}: {problems[0].reason} ({len(problems)} of "
            f"{len(problems) + num_good} records are bad; --on-bad-data skip leaves them out)"
        )
    if not num_good:
        first = f", the first, {problems[0].where}: {problems[0].reason}" if problems else ""
        raise InvalidInput(f"the data has no record to learn from{first}")


def _lines(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """(where, line) of every line that is not blank."""
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            if line.strip():
                yield f"{path}, line {number}", line


def _json(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8 at byte {error.start + 1} of the line") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"broken JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise InvalidInput("broken JSON: nested too deeply") from None

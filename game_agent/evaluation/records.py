"""Records: what is asked, on which blocks, and what is right. Read from JSONL, bad ones named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from game_agent.errors import InvalidInput

OnBadData = Literal["stop", "skip"]


@dataclass(frozen=True)
class Record:
    """A question on ``blocks`` with one or more right ``answers``.

    type: what kind of question, for the table; may be empty
    id:   names it among all records of a run
    """

    id: str
    blocks: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    type: str = ""


@dataclass(frozen=True)
class Records:
    """What a file held: the records, and a sentence for each line that was left out."""

    records: list[Record]
    bad: list[str]


def read_records(
    path: Path, *, on_bad_data: OnBadData = "stop", limit: int | None = None
) -> Records:
    """Records of a JSONL file; lines that are empty do not count.

    Each is an object with ``blocks`` and ``answers`` (one text each at least, none empty),
    ``question``, and if wanted ``type`` and ``id``; other keys are not looked at. Without an ``id``
    the number of the line is it. As in data for fine-tuning, ``answer`` may stand for one of
    ``answers``, and ``questions``, objects that have all these but ``blocks``, for several records.

    Raises :class:`InvalidInput`: for what cannot be read, for the first bad record (``stop``), and
    if no good one is left.
    """
    check_on_bad_data(on_bad_data)
    records: dict[str, Record] = {}
    bad = []
    for number, line in _lines(path):
        if limit is not None and len(records) >= limit:
            break
        try:
            several = {record.id: record for record in _parse(line, str(number))}
            if twice := several.keys() & records.keys():
                raise ValueError(f"there is a record {min(twice)!r} before it; make ids differ")
            records.update(several)
        except (ValueError, RecursionError) as error:
            bad.append(f"{path}, line {number}: {error}")
            if on_bad_data == "stop":
                raise InvalidInput(
                    f"{bad[0]}. Correct it, or leave such records out with --on-bad-data skip"
                ) from None
    if not records:
        raise InvalidInput(f"{path} has no record to ask" + (f"; {bad[0]}" if bad else ""))
    return Records(list(records.values())[:limit], bad)


def check_on_bad_data(choice: str) -> OnBadData:
    """Raises :class:`InvalidInput` for another word."""
    for known in get_args(OnBadData):
        if choice == known:
            return choice  # type: ignore[return-value]
    raise InvalidInput(f"--on-bad-data must be stop or skip, not {choice!r}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None


def _parse(line: bytes, number: str) -> list[Record]:
    """Raises ``ValueError`` saying what is wrong."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 ({error})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from None
    if not isinstance(value, dict) or "questions" not in value:
        return [parse_value(value, number)]
    questions = value["questions"]
    if not isinstance(questions, list) or not all(isinstance(each, dict) for each in questions):
        raise ValueError('"questions" must be an array of objects')
    if not questions:
        raise ValueError('"questions" is empty')
    name = value.get("id", number)
    return [
        parse_value({"blocks": value.get("blocks"), **each}, f"{name}.{index}")
        for index, each in enumerate(questions, 1)
    ]


def parse_value(value: object, number: str) -> Record:
    """A record from a decoded line; ``number`` names one without ``id``.

    Raises ``ValueError`` saying what is wrong.
    """
    if not isinstance(value, dict):
        raise ValueError("a record must be a JSON object")
    name = value.get("id", number)
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise ValueError('"id" must be a text or a number')
    has_one = "answer" in value and "answers" not in value
    return Record(
        str(name),
        _texts(value, "blocks"),
        _text(value, "question", value.get("question")),
        (_text(value, "answer", value["answer"]),) if has_one else _texts(value, "answers"),
        _text(value, "type", value["type"]) if value.get("type") else "",
    )


def _texts(record: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = record.get(key)
    if not isinstance(texts, list):
        raise ValueError(f'"{key}" must be an array of texts')
    if not texts:
        raise ValueError(f'"{key}" is empty')
    return tuple(_text(record, f"{key}[{i}]", text) for i, text in enumerate(texts))


def _text(record: dict[str, Any], name: str, value: object) -> str:
    if not isinstance(value, str):
        missing = name not in record and "[" not in name
        raise ValueError(f'"{name}" ' + ("is missing" if missing else "must be a text"))
    if not value.strip():
        raise ValueError(f'"{name}" is empty')
    # Half of a surrogate pair is JSON but no text: it could not be encoded or written again.
    if not value.isascii() and value.encode("utf-8", "ignore").decode("utf-8") != value:
        raise ValueError(f'"{name}" has a lone surrogate, which is no character')
    return value

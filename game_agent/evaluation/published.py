"""Files as data sets are published: JSON, JSON Lines or CSV, each gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from game_agent.errors import InvalidInput

Item = Mapping[str, Any]
KINDS = (".json", ".jsonl", ".csv")


def read_items(path: Path) -> Iterator[tuple[str, Item]]:
    """(where it stands, item) of each item: ``file, line 3`` or ``file, item 3``.

    A JSON file holds an array, or an object with an array under ``Data`` as TriviaQA's do. The
    first line of a CSV file names its columns.

    Raises :class:`InvalidInput` for a file that cannot be read as what its name says.
    """
    kind = _kind(path)
    try:
        text = _text(path)
        if kind == ".csv":
            rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            yield from ((f"{path}, line {rows.line_num}", row) for row in rows)
        elif kind == ".jsonl":
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _object(where, json.loads(line))
        else:
            value = json.loads(text)
            items = value.get("Data") if isinstance(value, dict) else value
            if not isinstance(items, list):
                raise InvalidInput(f"{path} must hold an array of items")
            for number, item in enumerate(items, 1):
                where = f"{path}, item {number}"
                yield where, _object(where, item)
    except (OSError, EOFError, ValueError, csv.Error, RecursionError) as error:
        raise InvalidInput(f"{path} cannot be read as {kind}: {error}") from None


def _kind(path: Path) -> str:
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind not in KINDS:
        raise InvalidInput(
            f"{path}: the name must end with {', '.join(KINDS)}, or one of these and .gz"
        )
    return kind


def _text(path: Path) -> str:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    csv.field_size_limit(max(csv.field_size_limit(), min(len(text) + 1, sys.maxsize)))
    return text


def _object(where: str, value: object) -> Item:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} must be a JSON object")
    return value

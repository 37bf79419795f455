"""docs/protocol.md says what the code does: fields, defaults, limits, errors; its examples run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import FakeRuntime
from serving import PATIENCE_S, running

from game_agent import errors
from game_agent.protocol.limits import Limits
from game_agent.protocol.messages import REQUESTS, Ask

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
NAME = re.compile(r"`([a-z_.]+)`")
FIELD = re.compile(r"`([a-z_]+)`(\??)(?: \(([^;)]*))?")


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = PAGE.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


OPERATIONS = {
    NAME.findall(names)[0]: fields for row in rows("## Operations") for names, fields, *_ in [row]
}


def value_of(text: str) -> Any:
    """What a cell says that a default is."""
    return None if text == "nil" else json.loads(text.strip("`"))


def test_every_operation_is_there() -> None:
    assert [op for row in rows("## Operations") for op in NAME.findall(row[0])] == list(OPERATIONS)
    assert set(OPERATIONS) == set(REQUESTS)


@pytest.mark.parametrize("op", sorted(set(REQUESTS) - {"ask"}))
def test_the_fields_of_an_operation_are_those_of_its_type(op: str) -> None:
    known = {field.name: field for field in msgspec.structs.fields(REQUESTS[op])}
    text = OPERATIONS[op]
    told = {
        match[1]: match for match in FIELD.finditer(re.sub(r"(?<=\()[^;)]*[`;][^)]*", "", text))
    }
    assert set(told) == set(known) - {"v", "id"}
    for name, match in told.items():
        if match[2] or known[name].required:
            assert bool(match[2]) != known[name].required, name
        else:
            assert " or " in text, f"{name} need not be given, what instead?"


def test_the_defaults_of_operations_are_told() -> None:
    num_told = 0
    for op, text in OPERATIONS.items():
        known = {field.name: field for field in msgspec.structs.fields(REQUESTS[op])}
        for name, _, default in FIELD.findall(text):
            if re.fullmatch(r"\d+|true|false", default) and name != "protocol":
                assert known[name].default == json.loads(default), (op, name)
                num_told += 1
    assert num_told > 5


def test_the_fields_of_an_ask_and_their_defaults_are_told() -> None:
    known = {field.name: field for field in msgspec.structs.fields(Ask)}
    told: dict[str, Any] = {}
    for names, defaults, *_ in rows("### ask"):
        fields = NAME.findall(names)
        texts = defaults.split(", ") if defaults else [""] * len(fields)
        told.update(zip(fields, texts, strict=True))
    assert set(told) == set(known) - {"v", "id"}
    for name, text in told.items():
        field = known[name]
        assert field.required == (text == ""), name
        if text and name == "kind":
            assert field.default == text.strip("`")
        elif text:
            expected = value_of(text)
            # What only one kind has must not be given for another: nil.
            is_false = expected is False and field.default is None
            default = field.default
            assert (
                is_false or (list(default) if isinstance(default, tuple) else default) == expected
            )


def test_limits_and_their_defaults_are_told() -> None:
    told: dict[str, int] = {}
    for names, defaults, *_ in rows("## Limits"):
        fields = NAME.findall(names)
        texts = defaults.split(", ") if len(fields) > 1 else [defaults.replace(",", "")]
        for name, text in zip(fields, texts, strict=True):
            number, _, unit = text.partition(" ")
            told[name] = int(number) * (2**20 if unit == "MiB" else 1)
    assert told == asdict(Limits())


def test_every_code_of_an_error_is_told() -> None:
    told = {NAME.findall(row[0])[0] for row in rows("## Errors")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.code for kind in kinds if issubclass(kind, errors.GameAgentError)}
    of_messages = {"bad_message", "unsupported_version", "unknown_op"}
    assert told == codes | of_messages


def test_the_examples_run() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    with running(FakeRuntime(is_instant=True)) as server:
        for example in examples:
            code = example.replace("tcp://127.0.0.1:5761", server.endpoint)
            code = code.replace("Client()", f"Client({server.endpoint!r})")
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
            assert done.returncode == 0, done.stderr
            assert "Mia heard Do you have a room?." in done.stdout

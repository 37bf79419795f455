"""The Python client performs the conformance script, and the player sees what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conformance.play import HERE, Mismatch, check, play, runner_of
from conformance.serving import check_conformance, conformance_runtime

BAD_RUNNER = """
import struct, sys, msgpack

def say(event):
    data = msgpack.packb(event)
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()

while len(head := sys.stdin.buffer.read(4)) == 4:
    command = msgpack.unpackb(sys.stdin.buffer.read(struct.unpack(">I", head)[0]))
    name = command["request"]
    say({"name": name, "id": 1})
    for _ in range(2):
        say({"name": name, "reply": {"ev": "ok", "v": 1, "seq": 7, "blocks": 1}})
"""


def test_the_python_client_conforms(tmp_path: Path) -> None:
    with conformance_runtime() as runtime:
        check_conformance([sys.executable, str(HERE / "runner_python.py")], runtime, tmp_path)


def test_a_client_that_ends_a_request_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "runner.py").write_text(BAD_RUNNER)
    with pytest.raises(Mismatch, match="ended twice"):
        play([sys.executable, str(tmp_path / "runner.py")], "tcp://127.0.0.1:9")


def test_a_runner_that_dies_is_found() -> None:
    with runner_of([sys.executable, "-c", "raise SystemExit(3)"]) as runner:
        with pytest.raises(Mismatch, match="has ended"):
            runner.next_event()
        with pytest.raises(Mismatch, match="status 3"):
            runner.finish()


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1, True),
        (0, False),
        (None, 0),
        ("1", 1),
        (b"a", "a"),
        ([1, 2], [1]),
        ([1, 2], [1, 3]),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": {"b": 1}}, {"$has": {"a": {"b": 2}}}),
        ({}, {"$has": {"a": "$any"}}),
        (True, "$number"),
        (b"", "$text"),
        ("", "$bytes"),
        (True, {"$one_of": [1, 2]}),
        ({"a": 1, "b": 2}, {"$is": {"a": 1}}),
    ],
)
def test_what_differs_is_found(actual: Any, expected: Any) -> None:
    with pytest.raises(Mismatch, match="here"):
        check(actual, expected, "here")


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1.0, 1),
        (None, None),
        ({"a": [True, {"b": b"x"}]}, {"a": [True, {"b": b"x"}]}),
        ({"a": 1, "b": 2}, {"$has": {"a": 1}}),
        ([b"x", 0.5, "y", None], ["$bytes", "$number", "$text", "$any"]),
        ("stop", {"$one_of": ["stop", "length"]}),
    ],
)
def test_what_is_alike_passes(actual: Any, expected: Any) -> None:
    check(actual, expected, "here")

"""JSON Patch and Merge Patch on published cases.

``data/json_patch_cases.json`` holds the documents, patches and results of the public suite
github.com/json-patch/json-patch-tests (commit 2a928f9; Apache-2.0, copyright 2014 The Authors),
without the two cases whose JSON names a member twice, which no value in Python can hold (see
``TWICE``). A case with neither ``expected`` nor ``error`` must apply. Merge Patch: the table of RFC
7396, appendix A.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from game_agent.agents.patch import apply_patch, merge_patch
from game_agent.errors import InvalidInput
from game_agent.inspecting import read_json
from game_agent.protocol.codec import decode
from game_agent.protocol.limits import Limits

CASES = json.loads((Path(__file__).parent / "data" / "json_patch_cases.json").read_text("utf-8"))


def inside(op: Any) -> Any:
    """An operation on a document that is the member ``doc`` of a world, which is an object."""
    if not isinstance(op, dict):
        return op
    return {
        name: f"/doc{value}"
        if name in ("path", "from") and isinstance(value, str) and value[:1] in ("", "/")
        else value
        for name, value in op.items()
    }


def test_the_suite_is_whole() -> None:
    assert len(CASES) == 110
    assert sum("error" in case for case in CASES) == 34


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.get("note") or case.get("error"))
def test_a_published_patch(case: dict[str, Any]) -> None:
    state = {"doc": case["doc"], "beside": 1}
    patch = [inside(op) for op in case["patch"]]
    if "error" in case:
        with pytest.raises(InvalidInput):
            apply_patch(state, patch)
        return
    got = apply_patch(state, patch)
    assert got["beside"] == 1
    if "expected" in case:
        assert json.dumps(got["doc"], sort_keys=True) == json.dumps(
            case["expected"], sort_keys=True
        )


TWICE = {
    "A.13 Invalid JSON Patch Document": [
        *(("op", "add"), ("path", "/baz"), ("value", "qux"), ("op", "remove")),
    ],
    "duplicate ops": [
        *(("op", "add"), ("path", "/baz"), ("value", "qux"), ("op", "move"), ("from", "/foo")),
    ],
}
"""The operations of those cases; the document is ``{"foo": "bar"}``, and both are errors."""


@pytest.mark.parametrize("members", TWICE.values(), ids=TWICE)
def test_an_operation_that_names_a_member_twice_is_refused(
    members: list[tuple[str, str]], tmp_path: Path
) -> None:
    packer = msgpack.Packer()
    op = packer.pack_map_pairs(members)
    fields = [("v", 1), ("id", 1), ("op", "world.patch"), ("world", "w")]
    head = b"".join(packer.pack(part) for pair in fields for part in pair)
    frame = b"\x85" + head + packer.pack("patch") + b"\x91" + op
    error = decode(frame, Limits()).error
    assert isinstance(error, InvalidInput)
    assert "'op' appears twice" in error.message
    file = tmp_path / "patch.json"
    file.write_text("[{" + ", ".join(f'"{name}": "{value}"' for name, value in members) + "}]")
    with pytest.raises(InvalidInput, match=r'patch\.json.*"op" appears twice'):
        read_json(file)


WHOLE = [
    case
    for case in CASES
    if isinstance(case["doc"], dict) and isinstance(case.get("expected"), dict)
]


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.get("note"))
def test_a_published_patch_of_a_whole_world(case: dict[str, Any]) -> None:
    assert apply_patch(case["doc"], case["patch"]) == case["expected"]


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    """All of the table but ``null`` for the whole document, which would be the member's removal."""
    assert merge_patch({"doc": target}, {"doc": patch}) == {"doc": result}
    if isinstance(target, dict) and isinstance(result, dict):
        assert merge_patch(target, patch) == result

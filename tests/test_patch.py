"""JSON Patch and Merge Patch: against the jsonpatch library, and what it does not promise."""

from __future__ import annotations

import copy
import math

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.agents.patch import MAX_DEPTH, apply_patch, check_json, merge_patch
from game_agent.agents.pointer import join_pointer, parse_pointer
from game_agent.errors import InvalidInput, TooLarge

keys = st.sampled_from(["a", "b", "0", "~x/y", ""])
scalars = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["s", 1.0, 0.5])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
states = st.dictionaries(keys, values, max_size=4)
tokens = st.sampled_from(["a", "b", "0", "1", "2", "~x/y", "", "-"])
pointers = st.lists(tokens, max_size=3).map(
    lambda path: "".join(join_pointer("", token) for token in path)
)


@st.composite
def operations(draw: st.DrawFn) -> dict[str, object]:
    name = draw(st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]))
    op: dict[str, object] = {"op": name, "path": draw(pointers)}
    if name in ("add", "replace", "test"):
        op["value"] = draw(values)
    if name in ("move", "copy"):
        op["from"] = draw(pointers)
    return op


def ours(state, ops):
    try:
        return apply_patch(state, ops)
    except InvalidInput:
        return None


def theirs(state, ops):
    try:
        result = jsonpatch.apply_patch(copy.deepcopy(state), copy.deepcopy(ops))
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError):
        return None
    return result if isinstance(result, dict) else None


def library_disagrees(op) -> bool:
    """Where jsonpatch leaves the RFC: whole-document operations, "-" read, true equal to 1."""
    return op["op"] == "test" or any(
        path == "" or path.endswith("/-") or "/-/" in path
        for path in (op["path"], op.get("from", "/a"))
    )


@settings(max_examples=200, deadline=None)
@given(states, operations().filter(lambda op: not library_disagrees(op)))
def test_agrees_with_the_jsonpatch_library(state, op):
    assert ours(state, [op]) == theirs(state, [op])


@settings(max_examples=200, deadline=None)
@given(states, st.lists(operations(), max_size=4), values)
def test_input_is_never_mutated(state, ops, merge):
    before, ops_before = copy.deepcopy(state), copy.deepcopy(ops)
    ours(state, ops)
    if isinstance(merge, dict):
        merge_patch(state, merge)
    assert (state, ops) == (before, ops_before)


@settings(max_examples=100, deadline=None)
@given(states, states)
def test_a_generated_patch_leads_to_its_target(state, target):
    ops = jsonpatch.make_patch(state, target).patch
    assert apply_patch(state, ops) == target


@pytest.mark.parametrize(
    ("state", "ops", "expected"),
    [
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3]}),
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2]}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": 1}, [{"op": "copy", "from": "", "path": "/b"}], {"a": 1, "b": {"a": 1}}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": ""}], {"b": 1}),
        ({"a/b": 1, "m~n": 2}, [{"op": "remove", "path": "/m~0n"}], {"a/b": 1}),
        ({"~1": 1}, [{"op": "test", "path": "/~01", "value": 1.0}], {"~1": 1}),
        ({"a": [0, 1]}, [{"op": "move", "from": "/a/0", "path": "/a/1"}], {"a": [1, 0]}),
    ],
)
def test_cases_of_the_rfc(state, ops, expected):
    assert apply_patch(state, ops) == expected


@pytest.mark.parametrize(
    ("op", "where"),
    [
        ({"op": "jump", "path": "/a"}, "/0/op"),
        ({"op": ["add"], "path": "/a"}, "/0/op"),
        ({"path": "/a"}, "/0/op"),
        ("remove", "/0"),
        ({"op": "remove"}, "/0/path"),
        ({"op": "remove", "path": 3}, "/0/path"),
        ({"op": "remove", "path": "a"}, "/0/path"),
        ({"op": "remove", "path": "/~2"}, "/0/path"),
        ({"op": "remove", "path": ""}, "/0/path"),
        ({"op": "remove", "path": "/nothing"}, "/0/path"),
        ({"op": "add", "path": "/a"}, "/0/value"),
        ({"op": "add", "path": "/a/b/c", "value": 1}, "/0/path"),
        ({"op": "add", "path": "/list/3", "value": 1}, "/0/path"),
        ({"op": "add", "path": "/list/01", "value": 1}, "/0/path"),
        ({"op": "add", "path": "/list/²", "value": 1}, "/0/path"),
        ({"op": "add", "path": "/list/" + "9" * 5000, "value": 1}, "/0/path"),
        ({"op": "replace", "path": "/list/-", "value": 1}, "/0/path"),
        ({"op": "move", "from": "/a", "path": "/a/b"}, "/0/path"),
        ({"op": "copy", "from": "/nothing", "path": "/a"}, "/0/from"),
        ({"op": "test", "path": "/one", "value": True}, "/0/path"),
        ({"op": "test", "path": "/list", "value": [1]}, "/0/path"),
        ({"op": "replace", "path": "", "value": [1]}, None),
    ],
)
def test_errors_name_the_field(op, where):
    with pytest.raises(InvalidInput) as caught:
        apply_patch({"a": {"b": 1}, "one": 1, "list": [1, 2]}, [op])
    assert caught.value.where == where


def test_untouched_subtrees_are_shared():
    state = {"a": {"deep": [1]}, "b": [{"x": 1}, {"y": 2}]}
    patched = apply_patch(state, [{"op": "replace", "path": "/b/0/x", "value": 5}])
    assert patched["a"] is state["a"]
    assert patched["b"][1] is state["b"][1]
    merged = merge_patch(state, {"a": {"more": 1}})
    assert merged["b"] is state["b"]
    assert merged["a"]["deep"] is state["a"]["deep"]


@pytest.mark.parametrize(
    ("state", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": 1}, {"a": {"x": None, "y": 2}}, {"a": {"y": 2}}),
    ],
)
def test_merge_patch_cases_of_the_rfc(state, patch, expected):
    assert merge_patch(state, patch) == expected


def test_merge_patch_must_leave_an_object():
    with pytest.raises(InvalidInput):
        merge_patch({"a": 1}, ["b"])


def test_copies_cannot_blow_up_the_state():
    doubling = [{"op": "copy", "from": "", "path": f"/{i}"} for i in range(60)]
    with pytest.raises(TooLarge):
        apply_patch({"a": 1}, doubling)


def test_the_state_cannot_grow_deeper_than_the_limit():
    ops = [{"op": "add", "path": "/a" * n, "value": {}} for n in range(1, MAX_DEPTH)]
    deepest = apply_patch({}, ops)
    check_json(deepest)
    with pytest.raises(InvalidInput):
        apply_patch(deepest, [{"op": "add", "path": "/a" * MAX_DEPTH, "value": {}}])
    with pytest.raises(InvalidInput):
        apply_patch(deepest, [{"op": "copy", "from": "", "path": "/b"}])
    with pytest.raises(InvalidInput):
        apply_patch({**deepest, "b": {}}, [{"op": "move", "from": "/a", "path": "/b/c"}])


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, math.nan]}, "/a/1"),
        ({"a": {"b/c": math.inf}}, "/a/b~1c"),
        ({"a": {1: 2}}, "/a"),
        ({"a": (1, 2)}, "/a"),
        ({"a": b"x"}, "/a"),
        ({"a": 2**64}, "/a"),
        ({"a": "\ud800"}, "/a"),
        ({"\ud800": 1}, ""),
    ],
)
def test_check_json_names_the_culprit(value, where):
    with pytest.raises(InvalidInput) as caught:
        check_json(value)
    assert caught.value.where == where


def test_check_json_accepts_json_up_to_the_depth_limit():
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    check_json(value)
    with pytest.raises(InvalidInput):
        check_json([value])


@given(st.lists(st.text(max_size=4), max_size=4))
def test_pointers_round_trip(path):
    pointer = ""
    for token in path:
        pointer = join_pointer(pointer, token)
    assert parse_pointer(pointer) == tuple(path)

"""Frames in and out: what the codec refuses, and where it says the fault lies."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.errors import InvalidInput, ProtocolError, TooLarge
from game_agent.protocol import messages
from game_agent.protocol.codec import decode, decode_reply, encode
from game_agent.protocol.limits import Limits
from game_agent.protocol.messages import parse, parse_ask, read_id

LIMITS = Limits(max_frame_bytes=4096, max_depth=8, max_string_chars=1000, max_items=1000)
ASK = {"v": 1, "id": 7, "op": "ask", "agent": "ann", "event": "hi"}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_a_map_survives_the_wire(fields: dict[str, Any]) -> None:
    decoded = decode(encode(fields), Limits())
    assert decoded.error is None
    assert decoded.fields == fields == decode_reply(encode(fields))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_map_or_a_clear_error(frame: bytes) -> None:
    try:
        decoded = decode(frame, LIMITS)
    except (ProtocolError, TooLarge):
        return
    assert isinstance(decoded.fields, dict)


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", b"\x81", b"\xc0", b"\x90", b"\x80\x80", b"\xa1\xff"]
)
def test_what_is_not_one_map_is_a_bad_message(frame: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(frame, LIMITS)
    assert caught.value.code == "bad_message"


def nested(depth: int) -> Any:
    return [] if depth == 1 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("value", "code", "where"),
    [
        ({"x": [1, math.nan]}, "invalid", "state.x.1"),
        (math.inf, "invalid", "state"),
        ({"x": {"y": b"z"}}, "invalid", "state.x.y"),
        ({"x": msgpack.ExtType(5, b"")}, "bad_message", "state.x"),
        ({"x": msgpack.Timestamp(1)}, "bad_message", "state.x"),
        ({1: 2}, "invalid", None),
        ({(1, 2): 2}, "invalid", None),
        ({"x": "a" * 1001}, "too_large", "state.x"),
        ({"x": {"a" * 1001: 1}}, "too_large", "state.x"),
        (nested(8), "too_large", "state.0.0.0.0.0.0.0"),
    ],
)
def test_a_bad_value_is_named_and_the_id_kept(value: Any, code: str, where: str | None) -> None:
    decoded = decode(msgpack.packb({"id": 3, "state": value}), LIMITS)
    assert read_id(decoded.fields) == 3
    assert decoded.error is not None
    assert (decoded.error.code, decoded.error.where) == (code, where)


def test_nesting_up_to_the_limit_is_allowed() -> None:
    assert decode(msgpack.packb({"state": nested(7)}), LIMITS).error is None


def test_binary_is_allowed_as_a_field_of_its_own() -> None:
    assert decode(msgpack.packb({"data": b"z"}), LIMITS).error is None


def test_a_key_that_appears_twice_is_refused() -> None:
    frame = b"\x83" + b"".join(map(msgpack.packb, ["id", 3, "world", "a", "world", "b"]))
    decoded = decode(frame, LIMITS)
    assert isinstance(decoded.error, InvalidInput)
    assert decoded.error.where == "world"
    assert decoded.fields == {"id": 3, "world": "a"}


@pytest.mark.parametrize("frame", [b"\x80" + b" " * 4096, msgpack.packb({"x": [0] * 1001})])
def test_large_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(TooLarge):
        decode(frame, LIMITS)


def test_a_frame_of_nothing_but_brackets_is_refused() -> None:
    with pytest.raises((ProtocolError, TooLarge)):
        decode(b"\x91" * 4000, LIMITS)


@pytest.mark.parametrize("value", [object(), {"x": {1, 2}}, 2**64, "\ud800"])
def test_what_has_no_plain_type_cannot_be_encoded(value: object) -> None:
    with pytest.raises(InvalidInput, match="cannot be encoded"):
        encode({"x": value})


@pytest.mark.parametrize(
    ("value", "read"),
    [
        *[(1, 1), (-5, -5), ("a", "a"), ("a" * 64, "a" * 64), ("a" * 65, None)],
        *[(True, None), (1.0, None), (None, None), (b"a", None), ([1], None)],
    ],
)
def test_ids(value: object, read: object) -> None:
    assert read_id({"id": value}) == read
    assert type(read_id({"id": value})) is type(read)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"v": None}, "v"),
        ({"v": True}, "v"),
        ({"op": None}, "op"),
        ({"op": "save"}, "agent"),
        ({"id": True}, "id"),
        ({"colour": 1}, "colour"),
        ({"agent": ""}, "agent"),
        ({"agent": None}, "agent"),
        ({"event": {"text": "x"}}, "event.from"),
        ({"event": {"text": "x", "from": "y", "z": 1}}, "event.z"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stream": "word"}, "stream"),
        ({"deadline_ms": 1.5}, "deadline_ms"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse({**ASK, **change})
    assert caught.value.where == where
    with pytest.raises(InvalidInput) as caught:
        parse_ask({**ASK, **change, "op": "ask", "v": 1, "id": True}, "asks.2")
    assert (caught.value.where or "").startswith("asks.2.")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse({"v": 1, "id": 7, "op": "ask", "agent": "ann"})
    assert caught.value.where == "event"


@pytest.mark.parametrize(
    ("change", "code"), [({"v": 2}, "unsupported_version"), ({"op": "dance"}, "unknown_op")]
)
def test_protocol_errors(change: dict[str, Any], code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse({**ASK, **change})
    assert caught.value.code == code


def test_an_ask_with_all_its_options() -> None:
    options = {
        "max_tokens": 5, "temperature": 1, "top_p": 0.5, "seed": 3, "stop": ["."],
        "stream": "sentence", "deadline_ms": 100, "priority": -1, "replaces": True,
        "remember": False, "mode": "full", "game_time": 1.5, "kind": "say",
    }  # fmt: skip
    ask = parse({**ASK, **options, "event": {"from": "Eve", "text": "hi"}})
    assert isinstance(ask, messages.Ask)
    assert isinstance(ask.event, messages.Event)
    assert (ask.event.speaker, ask.event.text) == ("Eve", "hi")
    assert {name: getattr(ask, name) for name in options} == {**options, "stop": (".",)}


@pytest.mark.parametrize("field", ["max_depth", "max_worlds", "max_replay_bytes"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_limits_are_checked(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        Limits(**{field: value})
    assert caught.value.where == field

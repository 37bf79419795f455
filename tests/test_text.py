"""Tokens in, text out: streams, stop strings, and text that stays text."""

from __future__ import annotations

import pytest
from checkpoints import SPECIALS, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.errors import ModelError
from game_agent.text.formats import PLAIN, PromptEncoder
from game_agent.text.stream import TextStream
from game_agent.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer().to_str())
ENCODER = PromptEncoder(TOKENIZER, PLAIN)
SPECIAL_IDS = {TOKENIZER.special(s) for s in SPECIALS}


def stream_of(tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(TOKENIZER, stop)
    pieces = [stream.push(token) for token in tokens]
    return [*pieces, stream.finish()], stream.stopped


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_streamed_text_comes_back_whole_and_valid(text: str) -> None:
    pieces, _ = stream_of(TOKENIZER.encode(text))
    assert "".join(pieces) == text
    for piece in pieces:
        piece.encode("utf-8")


@settings(deadline=None)
@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_and_what_follows_never_shows(text: str, stop: list[str]) -> None:
    pieces, stopped = stream_of(TOKENIZER.encode(text), tuple(stop))
    shown = "".join(pieces)
    assert stopped == any(s in text for s in stop)
    assert text.startswith(shown)
    assert not any(s in shown for s in stop)
    if not stopped:
        assert shown == text


def test_a_broken_utf8_sequence_is_held_back() -> None:
    first, *_rest = TOKENIZER.encode("é")
    assert "".join(stream_of([first])[0]) == ""


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SPECIALS), st.text(max_size=5)), max_size=6).map("".join))
def test_special_tokens_in_text_are_letters(text: str) -> None:
    assert not SPECIAL_IDS & set(TOKENIZER.encode(text))
    block = ENCODER.block(text).tolist()
    assert [t for t in block if t in SPECIAL_IDS] == [TOKENIZER.special("<|block|>")]
    assert TOKENIZER.decode(block) == text


def test_event_opens_the_reply() -> None:
    ids = ENCODER.event("Hello").tolist()
    assert ids[0] == TOKENIZER.special("<|event|>")
    assert ids[-1] == TOKENIZER.special("<|reply|>")
    assert ENCODER.stop_token_ids == (TOKENIZER.special("<|end|>"),)


def test_a_damaged_tokenizer_is_named() -> None:
    with pytest.raises(ModelError, match="tokenizer.json is not a usable tokenizer"):
        Tokenizer("{}")

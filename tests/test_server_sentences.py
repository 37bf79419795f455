"""Sentences cut from a stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.server.sentences import SentenceSplitter


@given(st.lists(st.text(alphabet='aB .!?\n。」"', max_size=6), max_size=12))
def test_nothing_is_lost_and_nothing_is_empty(pieces: list[str]) -> None:
    splitter = SentenceSplitter()
    out = [sentence for piece in pieces for sentence in splitter.feed(piece)] + splitter.flush()
    assert "".join(out) == "".join(pieces)
    assert all(out)
    assert splitter.flush() == []


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello. How are you? Good", ["Hello. ", "How are you? ", "Good"]),
        ('"Stop!" he said.', ['"Stop!" ', "he said."]),
        ("It is 3.5 m.", ["It is 3.5 m."]),
        ("Mr. Smith left. Now", ["Mr. Smith left. ", "Now"]),
        ("one\ntwo", ["one\n", "two"]),
        ("好。走吧。", ["好。", "走吧。"]),
        ("Well... yes", ["Well... ", "yes"]),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_sentences(text: str, sentences: list[str], is_streamed: bool) -> None:
    splitter = SentenceSplitter()
    out = [
        sentence for piece in (text if is_streamed else [text]) for sentence in splitter.feed(piece)
    ]
    assert out + splitter.flush() == sentences

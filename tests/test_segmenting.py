"""Where a text is cut into blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.text.segmenting import MAX_BLOCKS, segment


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", []),
        ("One line.", ["One line."]),
        ("A\nstill A\n\nB\n\n\n  C", ["A\nstill A\n\n", "B\n\n\n  ", "C"]),
        ("A\n---\nB\nC", ["A\n---\n", "B\nC"]),
        ("A\n=====\nB", ["A\n=====\n", "B"]),
        ("A:\n\tfirst\n\tsecond", ["A:\n", "\tfirst\n", "\tsecond"]),
        ("A\nB\n C", ["A\n", "B\n ", "C"]),
        ("\n\nA\n\nB\n\n", ["\n\nA\n\n", "B\n\n"]),
        ("  \n", ["  \n"]),
    ],
)
def test_the_first_delimiter_there_is_cuts(text: str, blocks: list[str]) -> None:
    assert segment(text) == blocks


def test_the_shortest_joins_the_one_before_it() -> None:
    text = "long one\n\nab\n\nmiddle\n\nlast one"
    assert segment(text, 3) == ["long one\n\nab\n\n", "middle\n\n", "last one"]
    assert segment(text, 2) == ["long one\n\nab\n\nmiddle\n\n", "last one"]
    assert segment("a\n\nlong one\n\nlonger still", 2) == ["a\n\nlong one\n\n", "longer still"]


@given(st.text(st.sampled_from("ab \n\t-=é")), st.integers(1, 20))
def test_nothing_is_lost(text: str, max_blocks: int) -> None:
    blocks = segment(text, max_blocks)
    assert "".join(blocks) == text
    assert all(blocks)
    assert len(blocks) <= max_blocks


def test_a_page_has_few_blocks() -> None:
    assert len(segment("\n\n".join(f"Paragraph {i}." for i in range(40)))) == MAX_BLOCKS

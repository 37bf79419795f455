"""Macros of cards: what stands in their place, and that it is the same each time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.lore import Lorebook
from game_agent.agents.macros import fill, without_comments


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{char}} and {{USER}}, <bot> and <User>", "Mira and Kay, Mira and Kay"),
        ("a{{// note to myself}}b{{comment: seen}}c", "abc"),
        ("a{{hidden_key: dragon}}b", "ab"),
        ("{{reverse:Hello}} {{Reverse:{{char}}}}", "olleH ariM"),
        ("{{pick:one}}{{random::two}}", "onetwo"),
        (r"{{pick:a\,b}}", "a,b"),
        ("{{roll:1}}{{roll:D1}}", "11"),
        ("{{roll:0}} {{roll:x}}", "{{roll:0}} {{roll:x}}"),
        ("{{unknown:1}} {char} <b>", "{{unknown:1}} {char} <b>"),
        ("{{roll:99999999999999999999}}", "{{roll:99999999999999999999}}"),
    ],
)  # fmt: skip
def test_what_a_macro_becomes(text: str, expected: str) -> None:
    assert fill(text, "Mira", "Kay") == expected


def test_chance_is_the_same_each_time_and_fair() -> None:
    texts = [f"{n}: {{{{random:red,blue}}}} {{{{roll:d6}}}}" for n in range(600)]
    once = [fill(text, "Mira", "Kay") for text in texts]
    assert once == [fill(text, "Mira", "Kay") for text in texts]
    colours = Counter(text.split()[1] for text in once)
    rolls = Counter(int(text.split()[2]) for text in once)
    assert set(colours) == {"red", "blue"}
    assert set(rolls) == set(range(1, 7))
    assert min(colours.values()) > 200
    assert min(rolls.values()) > 50


@given(st.lists(st.sampled_from(["{{", "}}", "//", "roll:", "pick:", "char", "<", ">", ",", "6"])))
def test_any_text_is_filled(pieces: list[str]) -> None:
    text = fill("".join(pieces), "Mira", "Kay")
    assert "{{char}}" not in text
    assert without_comments(text) == text or "{{//" in "".join(pieces)


def test_comments_and_hidden_keys_in_lore() -> None:
    entries = [
        {
            "keys": ["inn"],
            "content": "Old.{{// dragon}}{{hidden_key: witch}}",
            "insertion_order": 0,
        },
        {"keys": ["dragon"], "content": "Fire.", "insertion_order": 1},
        {"keys": ["witch"], "content": "Hex.", "insertion_order": 2},
    ]
    book = Lorebook({"entries": entries, "recursive_scanning": True})
    texts = [fill(e.text, "Mira", "Kay") for e in book.active(["the inn"]).entries]
    assert texts == ["Old.", "Hex."]

"""Which entries of a lorebook are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.keys import KeyIndex
from game_agent.agents.lore import Lorebook
from game_agent.errors import InvalidInput, TooLarge


def entry(*keys: str, **fields: object) -> dict[str, object]:
    return {"keys": list(keys), "content": f"about {' '.join(keys)}"} | fields


def told(entries: list[dict[str, object]], *messages: str, **book: object) -> list[str]:
    """Names of the entries that are told; the first message is the newest."""
    lorebook = Lorebook({"entries": entries, **book})
    return [e.name for e in lorebook.active(messages).entries]


@pytest.mark.parametrize(
    ("key", "text", "is_told"),
    [
        ("bell", "Where is the bell?", True),
        ("bell", "BELLS!", True),
        ("Bell", "bell", True),
        ("rat", "Let us celebrate", False),
        ("rat", "(rats)", True),
        ("iron lantern", "an Iron\n  Lantern", True),
        ("iron lantern", "an iron, lantern", False),
        ("straße", "in der STRASSE", True),
        ("7", "17 or 27", False),
        ("7", "a 7th", True),
        ("город", "в городе", True),
        ("род", "в городе", False),
        ("龍", "あの龍は", True),
        ("$5", "it costs $5", True),
        ("a", "a", True),
        ("ab", "a", False),
        ("  ", "  ", False),
        ("", "anything", False),
        ("é", "café é", True),
    ],
)
def test_a_key_is_mentioned(key: str, text: str, is_told: bool) -> None:
    assert bool(told([entry(key)], text)) is is_told


def test_case_matters_if_the_entry_says_so() -> None:
    entries = [entry("Rose", name="a", case_sensitive=True), entry("Rose", name="b")]
    assert told(entries, "a rose") == ["b"]
    assert told(entries, "is Rose here?") == ["a", "b"]


def test_a_selective_entry_needs_one_of_both() -> None:
    fields = {"name": "a", "secondary_keys": ["gold", "silver"]}
    entries = [entry("king", "queen", selective=True, **fields)]
    assert told(entries, "the king") == []
    assert told(entries, "gold") == []
    assert told(entries, "gold", "the queen") == ["a"]
    assert told([entry("king", selective=False, **fields)], "the king") == ["a"]
    assert told([entry("king", selective=True)], "the king") == ["0"]
    entries = [entry("king", selective=True, secondary_keys="gold, silver")]
    assert told(entries, "silver for the king") == ["0"]


def test_constant_disabled_and_empty_entries() -> None:
    entries = [
        entry(name="constant", content="x", constant=True),
        entry("x", name="disabled", enabled=False),
        entry("x", name="off", enabled=False, constant=True),
        entry("x", name="empty", content=" \n "),
        entry("x", name="told"),
    ]
    assert told(entries) == ["constant"]
    assert told(entries, "x") == ["constant", "told"]
    book = Lorebook({"entries": entries})
    assert (book.num_entries, len(book.entries)) == (5, 2)


def test_entries_stand_in_their_order() -> None:
    orders = [5, 1, 5, -2.5]
    entries = [entry("x", name=f"{i}", insertion_order=order) for i, order in enumerate(orders)]
    assert told(entries, "x") == ["3", "1", "0", "2"]


def test_only_the_last_messages_are_looked_at() -> None:
    entries = [entry(name, name=name) for name in "abcdef"]
    assert told(entries, *"abcdef", scan_depth=2) == ["a", "b"]
    assert told(entries, *"abcdef", scan_depth=0) == []
    assert told(entries, *"abcdef") == ["a", "b", "c", "d"]


def test_recursive_scanning_follows_the_content() -> None:
    entries = [
        entry("king", name="a", content="He fears the dragon."),
        entry("dragon", name="b", content="It sleeps on the hill."),
        entry("hill", name="c", selective=True, secondary_keys=["king"]),
        entry("hill", name="d", selective=True, secondary_keys=["queen"]),
        entry("hat", name="e"),
    ]
    assert told(entries, "the king") == ["a"]
    assert told(entries, "the king", recursive_scanning=True) == ["a", "b", "c"]
    entries.append(entry(name="f", constant=True, content="A hat."))
    assert told(entries, "", recursive_scanning=True) == ["e", "f"]
    assert told(entries, "") == ["f"]


def test_what_gives_way_first() -> None:
    entries = [
        entry("x", name="a", insertion_order=1),
        entry("x", name="b", insertion_order=2, priority=0),
        entry("x", name="c", insertion_order=3, constant=True),
        entry("x", name="d", insertion_order=4),
    ]
    active = Lorebook({"entries": entries, "token_budget": 9}).active(["x"])
    assert active.token_budget == 9
    assert [e.name for e in active.by_priority()] == ["c", "d", "a", "b"]


def test_decorators_are_cut_off() -> None:
    content = "@@depth 5\n@@@instruct_depth 5\n\n Some  content\r\n\nof {{char}}"
    (made,) = Lorebook({"entries": [entry("x", content=content)]}).entries
    assert made.text == "Some content\nof {{char}}"


WORDS = st.lists(st.sampled_from(["an", "ant", "antler", "tea", "te", "a"]), max_size=6)


@given(st.lists(WORDS.map(" ".join), max_size=8), WORDS.map(" ".join), st.booleans())
def test_the_index_finds_what_plain_search_finds(keys, text, is_exact):
    keys = {(is_exact, key) for key in keys if key}
    expected = {key for key in keys if f" {text}".find(f" {key[1]}") >= 0}
    assert KeyIndex(keys).mentioned(text) == expected


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([], "lore"),
        ({}, "lore/entries"),
        ({"entries": {}}, "lore/entries"),
        ({"entries": [3]}, "lore/entries/0"),
        ({"entries": [{"keys": "x", "content": 3}]}, "lore/entries/0/content"),
        ({"entries": [entry("x"), entry("x", enabled=1)]}, "lore/entries/1/enabled"),
        ({"entries": [entry("x", insertion_order="1")]}, "lore/entries/0/insertion_order"),
        ({"entries": [entry("x", priority=True)]}, "lore/entries/0/priority"),
        ({"entries": [entry("x", secondary_keys=[None])]}, "lore/entries/0/secondary_keys"),
        ({"entries": [entry("x", extensions=object())]}, "lore/entries/0/extensions"),
        ({"entries": [], "scan_depth": "2"}, "lore/scan_depth"),
        ({"entries": [], "token_budget": float("inf")}, "lore/token_budget"),
    ],
)
def test_what_is_no_lorebook_is_refused(value: object, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Lorebook(value, "lore")  # type: ignore[arg-type]
    assert caught.value.where == where


def test_a_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(TooLarge) as caught:
        Lorebook({"entries": [entry("x" * 201)]})
    assert caught.value.where == "/entries/0/keys"

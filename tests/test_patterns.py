"""Entries of lorebooks whose keys are regular expressions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.lore import Lorebook
from game_agent.agents.patterns import (
    MAX_PATTERN_CHARS,
    MAX_SEARCHED_CHARS,
    PatternIndex,
    read_patterns,
)
from game_agent.errors import InvalidInput, TooLarge


def entry(*keys: str, **fields: object) -> dict[str, object]:
    return {"keys": list(keys), "content": "It is told.", "use_regex": True} | fields


def told(entries: list[dict[str, object]], *messages: str, **book: object) -> list[str]:
    lorebook = Lorebook({"entries": entries, **book})
    return [e.name for e in lorebook.active(messages).entries]


@pytest.mark.parametrize(
    ("key", "text", "is_told"),
    [
        (r"drag(on|oon)s?\b", "Two dragoons!", True),
        (r"drag(on|oon)s?\b", "the DRAGON", True),
        (r"drag(on|oon)s?\b", "dragonfly", False),
        (r"^\s*where", "Where is it?", True),
        (r"^\s*where", "And where is it?", False),
        (r"/bell|gong/", "a gong", True),
        (r"/bell|gong/", "a GONG", False),
        (r"/bell|gong/i", "a GONG", True),
        (r"/^no$/gmu", "Well?\nno\n", True),
        (r"/a.b/s", "a\nb", True),
        (r"/a.b/", "a\nb", False),
        (r"/and\/or/", "and/or", True),
        ("/not closed", "it is /NOT CLOSED", True),
        ("a,b", "a,b", True),
        (r"龍|ドラゴン", "あの龍は", True),
        ("straße", "die STRAßE", True),
        ("", "anything", False),
    ],
)
def test_a_pattern_is_found(key: str, text: str, is_told: bool) -> None:
    assert bool(told([entry(key)], text)) is is_told


def test_case_matters_if_the_entry_says_so() -> None:
    entries = [entry("Rose", name="a", case_sensitive=True), entry("Rose", name="b")]
    assert told(entries, "a rose") == ["b"]
    assert told(entries, "is Rose here?") == ["a", "b"]


def test_what_the_specification_leaves_out_of_account() -> None:
    fields = {"secondary_keys": ["gold"], "selective": True, "constant": True}
    assert told([entry("king", **fields)], "gold") == []
    assert told([entry("king", **fields)], "the king") == ["0"]
    more = "@@additional_keys gold|silver\n@@exclude_keys war\nHe is rich."
    assert told([entry("king", content=more)], "the king") == []
    assert told([entry("king", content=more)], "war for the king's silver") == ["0"]


def test_patterns_follow_depth_and_recursion_as_other_keys_do() -> None:
    entries = [
        entry("k.ng", name="a", content="He fears the dragon."),
        entry("dr.gon", name="b"),
        {"keys": ["told"], "name": "c", "content": "It ends."},
    ]
    assert told(entries, "hm", "a king", scan_depth=1) == []
    assert told(entries, "hm", "a king", scan_depth=2) == ["a"]
    assert told(entries, "a king", recursive_scanning=True) == ["a", "b", "c"]


@pytest.mark.parametrize("key", ["(", "a(?=b)", r"(a)\1", "(?<!a)b", "[z-a]", "a{2000}", r"\u0041"])
def test_what_cannot_be_used_is_refused_by_name(key: str) -> None:
    book = {"entries": [entry("fine"), entry("fine", key, name="The war")]}
    with pytest.raises(InvalidInput, match="The war") as refused:
        Lorebook(book, "/data")
    assert refused.value.where == "/data/entries/1/keys"
    assert repr(key) in str(refused.value)
    # Who switches the entry off can use the rest.
    assert told([entry("fine"), entry(key, enabled=False)], "fine") == ["0"]
    assert told([entry(key, content="@@dont_activate\nIt is told.")], key) == []
    assert told([entry(key, content="@@activate\nIt is told.")]) == ["0"]


def test_a_bad_pattern_of_a_decorator_is_refused_too() -> None:
    with pytest.raises(InvalidInput, match="cannot be used") as refused:
        Lorebook({"entries": [entry("a", content="@@additional_keys (b\nIt is told.")]})
    assert refused.value.where == "/entries/0/content"


def test_patterns_that_are_too_large() -> None:
    for key in ("x" * (MAX_PATTERN_CHARS + 1), "(?:.{0,30}){20}z"):
        with pytest.raises(TooLarge, match="0"):
            Lorebook({"entries": [entry(key)]})
    many = [entry(f"(?:{number:02}x{{1,20}}){{20}}") for number in range(40)]
    with pytest.raises(TooLarge, match="together") as refused:
        Lorebook({"entries": many})
    assert refused.value.where == "/entries"


def test_only_the_beginning_of_a_long_message_is_searched() -> None:
    assert told([entry("king")], "龍" * (MAX_SEARCHED_CHARS - 4) + "king") == ["0"]
    assert told([entry("king")], "龍" * (MAX_SEARCHED_CHARS - 3) + "king") == []


@pytest.mark.parametrize("key", ["(a+)+$", "(a|aa)+$", "(.*)*b", "(a?){40}a{40}b"])
def test_no_pattern_takes_for_ever(key: str) -> None:
    """Backtracking would need more steps than there are atoms: this would not end."""
    assert told([entry(key)], "a" * (MAX_SEARCHED_CHARS - 1) + "!") == []


@given(
    st.lists(st.text("ab.*?+|()[]^${}\\d1,", max_size=8), max_size=4), st.text("ab1. ", max_size=12)
)
def test_the_index_finds_what_each_pattern_finds(sources: list[str], text: str) -> None:
    patterns = []
    for source in sources:
        try:
            patterns += read_patterns([source], True, "", "x")
        except InvalidInput:
            continue
    expected = {each for each in patterns if each.compiled.search(text)}
    assert PatternIndex(patterns).mentioned(text) == expected

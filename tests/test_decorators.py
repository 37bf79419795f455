"""Decorators and positions of lore, as Character Card V3 says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from game_agent.agents.decorators import Decorators, read_decorators
from game_agent.agents.lore import Lorebook
from game_agent.errors import InvalidInput


def entry(content: str, key: str = "inn", **fields: Any) -> dict[str, Any]:
    return {"keys": [key], "content": content, "insertion_order": 0, **fields}


def told(entries: list[dict[str, Any]], *messages: str, **fields: Any) -> list[str]:
    book = Lorebook({"entries": entries, **fields})
    return [e.text for e in book.active(messages).entries]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Old.", Decorators("Old.")),
        ("@@activate\n\nOld.\n", Decorators("Old.", activate=True)),
        ("@@exclude_keys a, b  c ,\nOld.", Decorators("Old.", exclude_keys=("a", "b  c"))),
        ("@@scan_depth 2\n@@scan_depth 9\nOld.", Decorators("Old.", scan_depth=2)),
        ("@@scan_depth two\nOld.", Decorators("Old.")),
        ("@@unknown 4\n@@@also_unknown\n@@@scan_depth 3\nOld.", Decorators("Old.", scan_depth=3)),
        ("@@activate\n@@@dont_activate\nOld.", Decorators("Old.", activate=True)),
        ("@@@dont_activate\nOld.", Decorators("Old.")),
        ("O.\n@@ignore_on_max_context\nN.", Decorators("O.\nN.", ignore_on_max_context=True)),
        ("@@additional_keys ,\nOld.", Decorators("Old.")),
        ("@@\n@@@\nOld.", Decorators("Old.")),
    ],
)  # fmt: skip
def test_decorators_are_read(content: str, expected: Decorators) -> None:
    assert read_decorators(content) == expected


@given(st.lists(st.sampled_from(["@@", "@", "activate", "scan_depth", " 3", "\n", "x", ","])))
def test_no_decorator_is_left_in_a_text(pieces: list[str]) -> None:
    made = read_decorators("".join(pieces))
    assert not any(line.startswith("@@") for line in made.content.splitlines())


def test_activation() -> None:
    entries = [
        entry("@@activate\nAlways.", "never said", selective=True, secondary_keys=["nor this"]),
        entry("@@dont_activate\nNever.", constant=True),
        entry("@@dont_activate\n@@activate\nYet.", "never said"),
    ]
    assert told(entries, "at the inn") == ["Always.", "Yet."]


def test_additional_and_excluded_keys() -> None:
    entries = [
        entry("@@additional_keys beer,wine\nDrinks."),
        entry("@@exclude_keys war\nPeace."),
        entry("@@exclude_keys war\nCalm.", constant=True),
        entry("@@additional_keys beer\nBeer.", constant=True),
    ]
    assert told(entries, "the inn") == ["Peace.", "Calm."]
    assert told(entries, "the inn has beer") == ["Drinks.", "Peace.", "Calm.", "Beer."]
    assert told(entries, "the inn has wine", "there is war") == ["Drinks."]


def test_an_entry_has_a_scan_depth_of_its_own() -> None:
    entries = [entry("@@scan_depth 1\nNear."), entry("Book."), entry("@@scan_depth 3\nFar.")]
    assert told(entries, "the inn", scan_depth=2) == ["Near.", "Book.", "Far."]
    assert told(entries, "hm", "the inn", scan_depth=2) == ["Book.", "Far."]
    assert told(entries, "hm", "so", "the inn", scan_depth=2) == ["Far."]
    assert told(entries, "hm", "so", "ah", "the inn", scan_depth=2) == []
    assert Lorebook({"entries": entries}).max_scan_depth == 4


def test_what_is_told_tells_more_whatever_the_depth() -> None:
    entries = [entry("The inn burns.", "fire"), entry("@@scan_depth 0\nMira keeps it.")]
    assert told(entries, "the inn", recursive_scanning=True) == []
    assert told(entries, "fire!", recursive_scanning=True) == ["The inn burns.", "Mira keeps it."]
    assert told(entries, "fire!", recursive_scanning=False) == ["The inn burns."]


def test_before_the_character_goes_before_after_it() -> None:
    entries = [
        entry("1", position="after_char", insertion_order=1),
        entry("2", position="before_char", insertion_order=9),
        entry("3", insertion_order=2),
    ]
    assert told(entries, "inn") == ["2", "3", "1"]


def test_what_may_be_ignored_gives_way_first() -> None:
    entries = [
        entry("@@ignore_on_max_context\nA.", priority=9, constant=True),
        entry("B.", priority=1),
        entry("C.", priority=2),
    ]
    active = Lorebook({"entries": entries}).active(["inn"])
    assert [e.text for e in active.by_priority()] == ["C.", "B.", "A."]


def test_a_lorebook_may_be_a_file_of_its_own() -> None:
    book = Lorebook({"spec": "lorebook_v3", "data": {"entries": [entry("Old.")]}})
    assert book.num_entries == 1
    with pytest.raises(InvalidInput) as error:
        Lorebook({"spec": "lorebook_v3", "data": {"entries": [entry("Old.", position=1)]}})
    assert error.value.where == "/data/entries/0/position"
    with pytest.raises(InvalidInput, match="a lorebook is an object"):
        Lorebook({"spec": "lorebook_v3"})

"""Texts from outside have a length: an error says how long one was, and how long it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from game_agent.agents import limits
from game_agent.agents.ask import AskOptions
from game_agent.agents.character import Character
from game_agent.agents.lore import Lorebook
from game_agent.agents.patch import check_json
from game_agent.agents.question import Choose
from game_agent.errors import InvalidInput, TooLarge
from game_agent.runtime import Runtime


@pytest.fixture(scope="module")
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint, device="cpu") as made:
        world = made.world("inn", {"weather": "rain"})
        made.agent("Mira", world=world, profile="Mira is a guard.")
        yield made


def lore(content: str) -> Lorebook:
    return Lorebook({"entries": [{"keys": ["a"], "content": content, "insertion_order": 0}]})


CASES: dict[str, tuple[int, Callable[[str], object], str]] = {
    "a value of a world": (limits.MAX_TEXT_CHARS, lambda t: check_json({"a": [t]}), "/a/0"),
    "a key of a world": (limits.MAX_TEXT_CHARS, lambda t: check_json({t: 1}), ""),
    "a name": (limits.MAX_NAME_CHARS, lambda t: Character(t, ""), "name"),
    "lore": (limits.MAX_LORE_CHARS, lore, "/entries/0/content"),
    "an option": (limits.MAX_OPTION_CHARS, lambda t: Choose(("a", t)), "options/1"),
    "a stop": (limits.MAX_STOP_CHARS, lambda t: AskOptions(stop=("a", t)), "stop/1"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_text_of_the_limit_is_taken_and_a_longer_one_is_not(name: str) -> None:
    limit, take, where = CASES[name]
    take("x" * limit)
    with pytest.raises(
        TooLarge, match=rf"has {limit + 1:,} characters, {limit:,} at most"
    ) as error:
        take("x" * (limit + 1))
    assert error.value.where == where


def test_a_character_is_limited_as_a_whole() -> None:
    half = limits.MAX_CHARACTER_CHARS // 2 - 20
    Character("Mira", "x" * half, "y" * half)
    with pytest.raises(TooLarge, match="with its instructions and examples"):
        Character("Mira", "x" * half, "y" * half, ("z" * 100,))


def test_speech_is_limited_before_it_is_read(runtime: Runtime) -> None:
    agent = runtime.get_agent("Mira")
    long = "x" * (limits.MAX_SPEECH_CHARS + 1)
    for say in (lambda: agent.observe(long), lambda: agent.say("Kay", long)):
        with pytest.raises(TooLarge, match="the event has 65,537 characters"):
            say()
    with pytest.raises(TooLarge, match="the speaker's name has 129 characters"):
        agent.say("x" * 129, "Hi")
    with pytest.raises(InvalidInput, match="the event must be a text, not int"):
        agent.say("Kay", 5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="half of a surrogate pair"):
        agent.say("Kay", "\ud800")
    assert agent.history() == []


def test_stops_are_counted() -> None:
    AskOptions(stop=("a",) * limits.MAX_STOPS)
    with pytest.raises(TooLarge, match="at most 64 texts end a reply"):
        AskOptions(stop=("a",) * (limits.MAX_STOPS + 1))

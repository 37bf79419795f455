"""The terminal conversation, with typed lines and a recorded screen."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from game_agent.chat import Chat
from game_agent.runtime import Runtime


class Typed(Console):
    """A console whose user types the given lines."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(file=io.StringIO(), width=200, force_terminal=False)
        self._lines = iter(lines)

    def input(self, *_: object, **__: object) -> str:
        line = next(self._lines, None)
        if line is None:
            raise EOFError
        return line

    @property
    def screen(self) -> str:
        assert isinstance(self.file, io.StringIO)
        return self.file.getvalue()


@pytest.fixture
def runtime(tiny_checkpoint: Path) -> Iterator[Runtime]:
    with Runtime.load(tiny_checkpoint) as runtime:
        yield runtime


def talk(runtime: Runtime, *lines: str) -> str:
    console = Typed(list(lines))
    Chat(runtime, console, name="Mira", profile="Mira runs the inn.").run()
    return console.screen


def test_an_answer_shows_what_it_cost(runtime: Runtime) -> None:
    screen = talk(runtime, "Hello", "/quit", "never read")
    assert "Mira:" in screen
    assert "cached" in screen
    assert "encoded" in screen
    assert "TTFT" in screen
    assert len(runtime.get_agent("Mira").history()) == 1


def test_the_world_can_be_changed_and_looked_at(runtime: Runtime) -> None:
    screen = talk(runtime, "/set /places/inn/rooms_free 1", "/set /weather fine day", "/blocks")
    assert screen.count("1 of ") == 2
    assert "rooms free: 1" in screen
    assert "weather: fine day" in screen


def test_a_mistake_is_told_and_the_talk_goes_on(runtime: Runtime) -> None:
    screen = talk(runtime, "/dance", "/set nowhere 1", "/set /a/b/c 1", "", "/world")
    assert "there is no command /dance" in screen
    assert '"places"' in screen


def test_another_world_can_be_loaded(runtime: Runtime) -> None:
    chat = Chat(runtime, Typed([]), name="Mira", profile="Mira runs the inn.")
    chat.load_world({"moon": "full"})
    assert runtime.get_world("chat").state == {"moon": "full"}

"""The demo's process that plays, against a stand-in for the server; and what it shows."""

from __future__ import annotations

import io
import random
from typing import Any, cast

import pytest
from demo_world import HOUSE, OracleClient, fact
from rich.console import Console

from game_agent.client import Client
from game_agent.clock import FakeClock

pytest.importorskip("textworld")

from game_agent_demos.game import Step
from game_agent_demos.player import Player
from game_agent_demos.screen import Screen
from game_agent_demos.state import world_state
from game_agent_demos.turn import Turn, summary

OPENED = HOUSE - {fact("locked", "wooden door")} | {fact("open", "wooden door")}
NORTH = OPENED - {fact("at", "P", "kitchen")} | {fact("at", "P", "pantry")}
STEPS = [
    Step("", HOUSE),
    Step("open wooden door", OPENED),
    Step("go north", NORTH),
    Step("drop milk", NORTH - {fact("in", "milk", "I")} | {fact("at", "milk", "hallway")}),
]


def turns_of(client: OracleClient, console: Console, **settings: Any) -> list[Turn]:
    clock = FakeClock()
    screen = Screen(console)
    player = Player(
        cast(Client, client), screen, random.Random(1), clock=clock, sleep=clock.advance, **settings
    )
    with screen:
        player.play(STEPS)
    screen.sum_up(summary(player.turns, clock.now_s()))
    return player.turns


def console(*, terminal: bool, width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)


def text_of(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_the_server_gets_the_differences_and_ends_with_the_same_world() -> None:
    client = OracleClient()
    turns = turns_of(client, console(terminal=False))
    assert client.state == world_state(STEPS[-1].facts)
    assert client.sent[0] == [
        {"op": "replace", "path": "/doors/wooden door/state", "value": "open"}
    ]
    assert [turn.num_facts_changed for turn in turns] == [1, 1, 1]
    assert all(turn.agrees for turn in turns)
    assert all(turn.context_tokens == 100 for turn in turns)


def test_a_wrong_answer_is_counted_and_shown() -> None:
    shown = console(terminal=False)
    turns = turns_of(OracleClient(lies={2: "You are on the moon."}), shown)
    assert [turn.agrees for turn in turns] == [True, False, True]
    assert "2 of 3 answers agree" in text_of(shown)
    assert "answer You are on the moon. | agrees no" in text_of(shown)


def test_ticks_come_at_a_steady_rate() -> None:
    shown = console(terminal=False)
    turns_of(OracleClient(), shown, tick_s=0.5)
    assert "3 ticks in 2.0 s" in text_of(shown)


def test_plain_lines_without_a_terminal() -> None:
    shown = console(terminal=False)
    turns = turns_of(OracleClient(), shown)
    lines = text_of(shown).splitlines()
    assert len([line for line in lines if line.startswith("tick ")]) == len(turns)
    assert "context 100=90+8+2" in lines[0]
    assert "\x1b" not in text_of(shown)


def test_a_table_in_a_terminal() -> None:
    shown = console(terminal=True, width=160)
    turns = turns_of(OracleClient(), shown)
    final = text_of(shown)
    for turn in turns:
        assert turn.question in final
    assert "agrees" in final
    assert "90.0% came from the cache" in final


def test_a_game_that_was_interrupted_at_once_has_a_summary() -> None:
    assert summary([], 0.0) == ["No tick was played."]

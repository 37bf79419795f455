"""The poker demo: PokerKit's rules, and what a bet costs in a prompt of more than 300 blocks."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from game_agent.agents.patch import check_json
from game_agent.errors import InvalidInput, Unavailable
from game_agent.model.runner import ModelRunner
from game_agent.runtime import Runtime
from game_agent_demos.poker import demo
from game_agent_demos.poker.match import Match, warm_up
from game_agent_demos.poker.table import BLINDS, Table, card_name

Card = pytest.importorskip("pokerkit").Card


def chips(table: Table) -> int:
    players = table.state()["players"].values()
    return sum(player["chips"] for player in players) + table.pot


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 5), min_size=1, max_size=80))
def test_no_chip_is_made_or_lost(seed: int, choices: list[int]) -> None:
    table = Table(random.Random(seed))
    for choice in choices:
        actions = table.actions()
        texts = [action.text for action in actions]
        assert 1 <= len(set(texts)) == len(texts) <= 6
        assert texts[0] == ("fold" if table.to_call else "check")
        table.play(actions[choice % len(actions)])
        check_json(table.state())
        assert chips(table) == sum(seat.bought for seat in table.seats.values())
    cards = [card for hand in table.state()["hands"].values() for card in hand["cards"]]
    assert len(set(cards)) == len(cards) >= 4


def test_a_seed_gives_the_same_game() -> None:
    states = []
    for _ in range(2):
        rng = random.Random(7)
        table = Table(rng, max_hands=3)
        warm_up(table, rng, 20)
        states.append(table.state())
    assert states[0] == states[1]
    assert len(states[0]["history"]) <= 3
    assert [card_name(card) for card in Card.parse("AsTd")] == ["ace of spades", "10 of diamonds"]


@pytest.fixture(scope="module")
def match() -> Iterator[Match]:
    rng = random.Random(1)
    table = Table(rng)
    warm_up(table, rng, 270)
    while not table.to_call or len(table.actions()) < 4:
        table.play(table.actions()[-2])
    with Runtime.load() as runtime:
        made = Match(runtime, table)
        made.warm()
        yield made


def test_a_bet_encodes_the_fields_that_it_changes(
    match: Match, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = match.table
    before, name, num_lines = (
        table.state(),
        table.to_act,
        len(table.history[f"hand {table.num_hands}"]),
    )
    raised = next(action for action in table.actions() if action.text.startswith("raise"))
    table.play(raised)
    after = table.state()
    changed = {
        f"/{section}/{key}/{field}" if section == "players" else f"/{section}/{key}"
        for section in ("table", "players")
        for key, value in after[section].items()
        for field in (value if section == "players" else [""])
        if (value[field] if field else value)
        != (before[section][key][field] if field else before[section][key])
    }
    changed.add(f"/history/hand {table.num_hands}/{num_lines}")
    assert changed == {
        "/table/pot",
        "/table/to act",
        f"/players/{name}/chips",
        f"/players/{name}/bet",
        f"/players/{name}/raises so far",
        f"/history/hand {table.num_hands}/{num_lines}",
    }
    steps = []
    forward = ModelRunner.forward
    monkeypatch.setattr(
        ModelRunner, "forward", lambda self, step: steps.append(step) or forward(self, step)
    )
    made = match.decide()
    assert made.blocks > 300
    assert made.blocks_encoded == made.fields_changed == len(changed)
    assert made.choice in made.options
    assert len(made.options) > 1
    # Changed blocks, the question and all options: one pass.
    assert len(steps) == 1
    assert made.computed_tokens < 0.05 * made.context_tokens


def test_each_block_that_changed_is_the_changed_field(match: Match) -> None:
    """Block by block: what is not cached is what the action changed, and nothing else."""
    match.decide()
    # Whatever was chosen: if that began a new hand, others have cards that nobody has read yet.
    match.warm()
    state = match.table.state()
    agent = match.agents[match.table.to_act]
    before = {row["source"] for row in agent.inspect() if not row["cached"]}
    assert before == set()
    match.world.patch([{"op": "replace", "path": "/players/Odo/chips", "value": 12345}])
    new = [row for row in agent.inspect() if not row["cached"]]
    assert [(row["source"], row["text"]) for row in new] == [
        ("world:/players/Odo/chips", "players / Odo: chips: 12345.")
    ]
    match.world.put(match._state)
    assert state == match.table.state()


def test_nobody_sees_the_cards_of_others(match: Match) -> None:
    for name, agent in match.agents.items():
        sources = {row["source"] for row in agent.inspect()}
        hands = {source for source in sources if source.startswith("world:/hands")}
        assert all(source.startswith(f"world:/hands/{name}") for source in hands)
        assert len(hands) == 1


def test_it_plays_and_sums_up() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120)
    assert demo.run(ticks=8, seed=2, history_lines=12, console=console) == 0
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("6 players, ")
    assert "8 decisions in one forward pass each" in out.getvalue()
    assert "a cache of prefixes would have computed" in " ".join(lines)


def test_what_cannot_be_played_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="--ticks must be at least 1"):
        demo.run(ticks=0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="PokerKit"):
        demo.run()
    assert BLINDS == (10, 20)

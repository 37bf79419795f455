"""What the bundled model still knows of a conversation that is too long for its prompt. (Slow.)"""

from __future__ import annotations

import pytest

from game_agent.runtime import Runtime

pytestmark = pytest.mark.slow

NAMES = ("Selwyn", "Maren", "Odo", "Bram", "Greta", "Ida")


def test_a_name_that_fell_out_of_the_prompt_comes_back() -> None:
    """Told once, asked for forty events later; the prompt has room for a dozen of them."""
    known = {0: 0, 2: 0}
    with Runtime.load() as runtime:
        state = {"weather": "rain", "places": {"inn": {"rooms free": 3, "keeper": "Mira"}}}
        runtime.world("village", state)
        for name in NAMES:
            for recall in known:
                mira = runtime.agent(
                    f"Mira, who meets {name} {recall}",
                    world="village",
                    profile="Mira runs the inn.",
                    memory_tokens=250,
                    recall=recall,
                )
                mira.memory.add_turn("Player", f"My name is {name}.", f"Welcome, {name}.")
                for number in range(40):
                    mira.observe(f"Cart number {number} passes by.")
                answer = mira.say("Player", "Do you remember my name?", max_tokens=30)
                known[recall] += name in answer.text()
    assert known[0] == 0
    assert known[2] >= len(NAMES) - 1

"""In which words things are asked: many for each kind of question, some of them kept for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Wordings:
    """``{e}`` in a wording is what is asked about. ``held_out`` is never used in training."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, *, held_out: bool) -> tuple[str, ...]:
        return self.held_out if held_out else self.train


def _read() -> dict[str, Wordings]:
    text = files("game_agent").joinpath("data", "wordings.json").read_text("utf-8")
    return {
        kind: Wordings(tuple(entry["train"]), tuple(entry["held_out"]))
        for kind, entry in json.loads(text).items()
    }


WORDINGS = _read()
OFF_TOPIC = WORDINGS.pop("off_topic")
"""Questions that no scene answers."""

# What is answered to the kinds that need no facts.
SMALL_TALK: dict[str, str] = {
    "hello": "Good day to you.",
    "thanks": "You are welcome.",
    "bye": "Farewell.",
    "well": "I am well, thank you.",
    "help": "Ask me about people, places and things.",
}
UNKNOWN = "I do not know."

# Kinds whose subject was named in the turn before, by the kind that names it itself.
PRONOUNS: dict[str, str] = {
    "where_thing": "it_where",
    "price": "it_price",
    "owner": "it_owner",
    "left": "it_left",
    "state": "it_state",
    "keeper": "it_keeper",
    "exits": "it_exits",
    "quest_state": "it_quest_state",
    "quest_giver": "it_quest_giver",
    "quest_reward": "it_quest_reward",
    "weakness": "it_weakness",
    "beast_hp": "it_beast_hp",
    "where_person": "they_where",
    "job": "they_job",
    "mood": "they_mood",
    "hp": "they_hp",
    "gold": "they_gold",
    "carrying_person": "they_carrying",
}

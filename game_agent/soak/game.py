"""The game that a soak plays: a world, what changes in it, and what is asked."""

from __future__ import annotations

import random
from typing import Any

from game_agent.protocol.codec import Map
from game_agent.soak.schedule import Event, SoakSettings

WORLD = "soak"
BACKGROUND_WORLD = "soak-background"
BACKGROUND_AGENT = "soak-background"
CHARS_PER_TOKEN = 1.5
"""Of a place as Python prints it, by the bundled model's tokenizer; others need fewer tokens."""
REMEMBER_EVERY = 10
"""One ask in so many goes into memory: enough to test it, too few to make prompts much longer."""

_THINGS = (
    "amber",
    "barley",
    "bread",
    "candles",
    "cloth",
    "copper",
    "eggs",
    "flour",
    "herbs",
    "honey",
    "iron",
    "lamps",
    "milk",
    "nets",
    "oil",
    "pelts",
    "rope",
    "salt",
    "silver",
    "spice",
    "stone",
    "tallow",
    "timber",
    "wax",
    "wheat",
    "wine",
    "wool",
)
_MOODS = ("calm", "busy", "crowded", "noisy", "quiet", "empty", "cheerful", "tense")


class Game:
    """Requests of one game, as (op, fields), and nothing about how they are sent."""

    def __init__(self, settings: SoakSettings) -> None:
        self._settings = settings
        self._chance = random.Random(settings.seed)
        self._places = self.new_places()

    @property
    def agents(self) -> list[str]:
        return [f"npc-{index}" for index in range(self._settings.num_agents)]

    def set_up(self) -> list[tuple[str, Map]]:
        """What makes the worlds and the agents."""
        state = {"places": self._places, "clock": {"minute": 0}}
        out: list[tuple[str, Map]] = [("world.put", {"world": WORLD, "state": state})]
        out.append(("world.put", {"world": BACKGROUND_WORLD, "state": {}}))
        for agent in self.agents:
            profile = f"{agent} works at {self._chance.choice(list(self._places))}."
            out.append(("agent.put", {"agent": agent, "world": WORLD, "profile": profile}))
        background = {"agent": BACKGROUND_AGENT, "world": BACKGROUND_WORLD, "profile": "A shadow."}
        out.append(("agent.put", background))
        out += [("agent.warm", {"agent": agent}) for agent in self.agents]
        return out

    def tick(self, event: Event) -> Map:
        """A tick: the clock moves; in ``updates`` a place in the middle of the world changes."""
        merge: Map = {"clock": {"minute": event.number}}
        if event.phase == "updates":
            names = list(self._places)
            merge["places"] = {names[len(names) // 2]: {"visitors": event.number}}
        return {"world": WORLD, "tick": event.number, "seq": event.number + 1, "merge": merge}

    def ask(self, event: Event) -> Map:
        """A streamed question to the next agent."""
        thing, place = self._chance.choice(_THINGS), self._chance.choice(list(self._places))
        return {
            "agent": self.agents[event.number % self._settings.num_agents],
            "event": f"How many {thing} does {place} have today?",
            "max_tokens": self._settings.max_tokens,
            "deadline_ms": self._settings.deadline_ms,
            "remember": event.number % REMEMBER_EVERY == 0,
            "stream": True,
        }

    def encode(self) -> list[tuple[str, Map]]:
        """A new text for the agent that nobody asks, to be encoded when there is time."""
        state = {"places": {name: self._place() for name in list(self._places)[:4]}}
        return [
            ("world.put", {"world": BACKGROUND_WORLD, "state": state}),
            ("agent.warm", {"agent": BACKGROUND_AGENT}),
        ]

    def new_places(self) -> dict[str, Any]:
        """Places for a prompt of about ``context_tokens``, other ones each time."""
        places: dict[str, Any] = {}
        num_chars = 0
        while num_chars < self._settings.context_tokens * CHARS_PER_TOKEN:
            places[f"place-{len(places)}"] = place = self._place()
            num_chars += len(str(place))
        return places

    def _place(self) -> dict[str, Any]:
        goods = {thing: self._chance.randrange(100) for thing in self._chance.sample(_THINGS, 8)}
        return {"visitors": 0, "mood": self._chance.choice(_MOODS), "goods": goods}

"""A TextWorld game: built from a seed, played by its own winning policy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import textworld
from numpy.random import RandomState
from textworld import Game, GameOptions
from textworld.generator import World, make_grammar, make_quest, make_world
from textworld.generator.vtypes import get_new
from textworld.logic import Variable

from game_agent_demos.state import Entity, Fact

FILLING = {"o": 0.5, "f": 0.2, "s": 0.15, "c": 0.15}  # shares of objects, food, furniture, boxes
QUEST_ENDS_NOT_WITH = ("go.*", "examine.*", "look.*", "inventory.*")


@dataclass(frozen=True)
class House:
    """How large a game is. The winning policy of the default takes about 30 actions.

    num_objects: beside those that the quests are about
    """

    num_rooms: int = 8
    num_objects: int = 96
    num_quests: int = 5
    quest_length: int = 8


@dataclass(frozen=True)
class Step:
    """What holds after an action. ``action`` is empty at the beginning."""

    action: str
    facts: frozenset[Fact]


def build_game(seed: int, house: House | None = None) -> Game:
    """A game, the same for the same seed. Takes some seconds."""
    house = house or House()
    options = _options(seed, house)
    rngs = options.rngs
    world = make_world(house.num_rooms, rngs=rngs)
    options.chaining.rng = rngs["quest"]
    quests = make_quest(world, options)
    # Not by make_game: it would put a good part of the objects into the player's bag.
    world.populate_with(_objects(house.num_objects, world, rngs["objects"]), rng=rngs["objects"])
    return Game(world, make_grammar(rng=rngs["grammar"]), quests)


def _options(seed: int, house: House) -> GameOptions:
    options = GameOptions()
    options.seeds = seed
    options.nb_parallel_quests = house.num_quests
    options.quest_length = house.quest_length
    # From the quest's end back to its beginning, with the objects that it needs.
    options.chaining.backward = True
    options.chaining.create_variables = True
    options.chaining.restricted_types = {"r", "d"}
    rules = options.kb.rules.get_matching(".*", exclude=QUEST_ENDS_NOT_WITH)
    options.chaining.rules_per_depth = [rules]
    return options


def _objects(num_objects: int, world: World, rng: RandomState) -> list[Variable]:
    counts = world.kb.types.count(world.state)
    kinds = rng.choice(list(FILLING), size=num_objects, p=list(FILLING.values()))
    return [Variable(get_new(kind, counts), kind) for kind in map(str, kinds)]


def play(game: Game) -> Iterator[Step]:
    """The beginning, then a step for each action of the winning policy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "house.json"
        game.save(str(path))
        # Played from its logic, not from a compiled story file: that needs no compiler.
        environment = textworld.start(str(path), textworld.EnvInfos(facts=True))
    state = environment.reset()
    yield Step("", _facts(state))
    for action in game.walkthrough:
        state, _, _ = environment.step(action)
        yield Step(action, _facts(state))


def _facts(state: Any) -> frozenset[Fact]:
    return frozenset(
        Fact(fact.name, tuple(Entity(argument.name, argument.type) for argument in fact.arguments))
        for fact in state["facts"]
    )

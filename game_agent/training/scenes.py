"""Made-up scenes: a world as a game would send it, cut into blocks, with questions and answers.

Everything follows from the seed. Worlds go through the runtime's own partition, so what the model
reads in training is what it will read in use.
"""

from __future__ import annotations

import random

from game_agent.agents.actions import actions_text
from game_agent.agents.partition import partition
from game_agent.training import phrases, sections
from game_agent.training.asking import make_questions
from game_agent.training.draft import Draft
from game_agent.training.history import add_history
from game_agent.training.house import add_house
from game_agent.training.names import Split, the
from game_agent.training.requests import add_actions
from game_agent.training.scene import ABSENT, TALK, Fact, Question, Scene
from game_agent.training.spelling import WORDS
from game_agent.training.wordings import UNKNOWN

__all__ = ["Question", "Scene", "make_questions", "make_scene"]

MAKERS = (
    (sections.add_person, 6),
    (sections.add_thing, 5),
    (sections.add_place, 3),
    (sections.add_quest, 2),
    (sections.add_door, 1),
    (sections.add_container, 1),
    (sections.add_beast, 1),
    (sections.add_lore, 3),
    (sections.add_noise, 1),
)
ENTRIES_PER_BLOCK = 2.0
HOUSE_SHARE = 0.4
ACTIONS_SHARE = 0.35


def make_scene(rng: random.Random, num_blocks: int, split: Split = "train") -> Scene:
    """A scene of about ``num_blocks`` ≥ 2 blocks."""
    draft = Draft.create(rng, split)
    character = _character(draft)
    _build(draft, num_blocks)
    world = [part.text for part in partition(draft.state).parts]
    blocks = (character, *world, *draft.lore, *draft.turns, *draft.events)
    actions, requests = add_actions(draft) if draft.chance(ACTIONS_SHARE) else ((), ())
    if actions:
        blocks = (*blocks, actions_text(actions))
    return Scene(
        draft.state,
        blocks,
        tuple(draft.facts.values()),
        draft.manner,
        tuple(_absent(draft)),
        draft.last_asked,
        actions,
        requests,
    )


def _build(draft: Draft, num_blocks: int) -> None:
    room = max(1, num_blocks - 1)
    if draft.chance(HOUSE_SHARE):
        add_house(draft, max(2, round(room * draft.rng.uniform(0.15, 0.9))), round(room * 2.2))
    else:
        for maker, share in ((sections.add_world, 0.7), (sections.add_player, 0.6)):
            if draft.chance(share):
                maker(draft)
        if draft.chance(0.08):
            sections.add_poker(draft)
        makers, weights = zip(*MAKERS, strict=True)
        for maker in draft.rng.choices(makers, weights, k=max(1, round(room * ENTRIES_PER_BLOCK))):
            maker(draft)
        titles = list(draft.state.items())
        draft.rng.shuffle(titles)
        draft.state = dict(titles)
    add_history(draft, room)


def _character(draft: Draft) -> str:
    """The first block; tells the character's name and trade and sets the manner of speech."""
    name, job = draft.names.person(), draft.pick(WORDS["jobs"])
    manner = draft.pick(list(phrases.MANNERS))
    word = draft.pick(phrases.MANNERS[manner][1])
    place = draft.names.place()
    draft.me, draft.manner = name, manner
    draft.tell("self", "", f"I am {name}.", TALK)
    draft.tell("self_job", "", f"I am a {job}.", TALK)
    profile = draft.pick(
        (
            f"{name} is a {job}. Speech: {word}.",
            f"{name} is a {job} in {the(place)} and speaks in a {word} way.",
            f"A {word} {job}.",
            f"job: {job}; speech: {word}.",
            f"role: {job}; home: {place}; manner: {word}.",
        )
    )
    if manner == "plain" and draft.chance(0.7):
        profile = draft.pick((f"{name} is a {job}.", f"A {job} in {the(place)}.", f"job: {job}."))
    if draft.chance(0.2):
        runs = draft.pick(("runs", "keeps", "guards"))
        speech = "" if manner == "plain" else f" and speaks {_adverb(word)}"
        profile = f"{name} {runs} {the(place)}{speech}."
        draft.facts.pop(("self_job", ""))
        verb = runs.removesuffix("s")
        draft.tell("self_job", "", f"I {verb} {the(place)}.", TALK)
    return f"You are {name}. {profile}"


def _adverb(word: str) -> str:
    return word if word.endswith("ly") else f"in a {word} way"


def _absent(draft: Draft) -> list[Fact]:
    """Questions whose answer is not in the scene, about strangers and about what is there."""
    strangers = {
        "where_person": draft.names.person,
        "job": draft.names.person,
        "where_thing": draft.names.thing,
        "price": draft.names.thing,
        "owner": draft.names.thing,
        "state": draft.names.door,
        "quest_state": draft.names.quest,
        "contents": draft.names.container,
    }
    kinds = draft.rng.sample(list(strangers), 3)
    wanted = [(kind, strangers[kind]()) for kind in kinds]
    wanted += [(kind, "") for kind in ("weather", "time", "name_player", "home_player")]
    known = {fact.subject: fact.kind for fact in draft.facts.values() if fact.subject}
    for subject, kind in draft.rng.sample(list(known.items()), min(3, len(known))):
        related = next((group for group in RELATED if kind in group), ())
        wanted += [(other, subject) for other in related]
    return [Fact(*key, UNKNOWN, ABSENT) for key in wanted if key not in draft.facts]


# Kinds that can be asked about the same subject.
RELATED = (
    ("where_person", "job", "mood", "hp", "gold", "carrying_person"),
    ("price", "left", "owner"),
    ("keeper", "rooms_free", "exits"),
    ("quest_state", "quest_giver", "quest_reward"),
    ("weakness", "beast_hp"),
)

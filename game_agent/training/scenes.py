"""Made-up scenes: a world as a game would send it, cut into blocks, with questions and answers.

Everything follows from the seed. Worlds go through the runtime's own partition, so what the model
reads in training is what it will read in use.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from game_agent.agents.partition import partition
from game_agent.training import phrases, questions, sections
from game_agent.training.draft import Draft, Fact
from game_agent.training.house import add_house
from game_agent.training.names import WORDS, Split, spoken_list, the

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


@dataclass(frozen=True)
class Question:
    """``event`` is asked, ``reply`` is right; ``kind`` says what it takes to answer."""

    event: str
    reply: str
    kind: str


@dataclass(frozen=True)
class Scene:
    """The blocks of a prompt, in order; the first is the character."""

    state: dict[str, Any]
    blocks: tuple[str, ...]
    facts: tuple[Fact, ...]
    manner: str
    absent: tuple[Fact, ...]
    """Questions on what this scene does not tell."""


def make_scene(rng: random.Random, num_blocks: int, split: Split = "train") -> Scene:
    """A scene of about ``num_blocks`` ≥ 2 blocks."""
    draft = Draft.create(rng, split)
    character = _character(draft)
    _build(draft, num_blocks)
    world = [part.text for part in partition(draft.state).parts]
    blocks = (character, *world, *draft.lore, *draft.turns, *draft.events)
    facts = tuple(draft.facts.values())
    return Scene(draft.state, blocks, facts, draft.manner, tuple(_absent(draft)))


def _build(draft: Draft, num_blocks: int) -> None:
    room = max(1, num_blocks - 1)
    if draft.chance(HOUSE_SHARE):
        add_house(draft, max(2, round(room * draft.rng.uniform(0.3, 0.9))), round(room * 2.2))
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
    for _ in range(draft.rng.randint(0, min(8, room // 2))):
        if draft.chance(0.5):
            _add_past_question(draft)
        else:
            _add_turn(draft)
    for _ in range(draft.rng.randint(0, min(4, room // 4))):
        _add_event(draft)


def _character(draft: Draft) -> str:
    """The first block; tells the character's name and trade and sets the manner of speech."""
    name, job = draft.names.person(), draft.pick(WORDS["jobs"])
    manner = draft.pick(list(phrases.MANNERS))
    word = draft.pick(phrases.MANNERS[manner][1])
    place = draft.names.place()
    draft.me, draft.manner = name, manner
    draft.tell("self", "", f"I am {name}.")
    draft.tell("self_job", "", f"I am a {job}.")
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
        draft.tell("self_job", "", f"I {verb} {the(place)}.")
    return f"You are {name}. {profile}"


def _adverb(word: str) -> str:
    return word if word.endswith("ly") else f"in a {word} way"


def _add_turn(draft: Draft) -> None:
    """Something the player said earlier: who they are, or nothing of note."""
    name, home, goal = draft.names.person(), draft.names.town(), draft.names.thing()
    said, kind, answer = draft.pick(
        (
            (f"My name is {name}.", "name_player", f"You are {name}."),
            (f"I am {name}.", "name_player", f"You are {name}."),
            (f"I come from {home}.", "home_player", f"You come from {home}."),
            (f"My home is {home}.", "home_player", f"You come from {home}."),
            (f"I am looking for the {goal}.", "goal_player", f"You look for the {goal}."),
            (f"I seek the {goal}.", "goal_player", f"You look for the {goal}."),
            (draft.pick(questions.OFF_TOPIC), "", ""),
        )
    )
    if kind and (kind, "") in draft.facts:
        return
    if kind:
        draft.tell(kind, "", answer)
    _add_exchange(draft, said, draft.pick(phrases.REPLIES) if kind else questions.UNKNOWN)


def _add_past_question(draft: Draft) -> None:
    """A question that was answered earlier, when things may have been otherwise: the world counts,
    not what was said about it."""
    fact = draft.pick(list(draft.facts.values()))
    wording = draft.pick(questions.QUESTIONS[fact.kind][:-1])
    answer = fact.answer if draft.chance(0.4) else _outdated(draft, fact)
    _add_exchange(draft, wording.format(e=fact.subject), answer)


def _outdated(draft: Draft, fact: Fact) -> str:
    """What may have been the answer once; the present one where nothing else is at hand."""
    if fact.kind == "where_player":
        return f"You are in {the(draft.names.room())}."
    if fact.kind == "carrying_player":
        things = [draft.names.thing() for _ in range(draft.rng.randint(0, 3))]
        return f"You carry {spoken_list(things)}."
    if fact.kind == "exits_player":
        ways = draft.rng.sample(phrases.DIRECTIONS, draft.rng.randint(1, 2))
        exits = {way: draft.names.room() for way in ways}
        return f"You can go {sections.spoken_exits(exits)}."
    others = [f for f in draft.facts.values() if f.kind == fact.kind and f.subject != fact.subject]
    if not others:
        return fact.answer
    other = draft.pick(others)
    return other.answer.replace(other.subject, fact.subject)


def _add_exchange(draft: Draft, said: str, reply: str) -> None:
    prefix = phrases.MANNERS[draft.manner][0]
    draft.turns.append(f"Player: {said}\n{draft.me}: {prefix}{reply}")


def _add_event(draft: Draft) -> None:
    person = draft.names.person()
    deed = draft.pick(phrases.DEEDS).format(
        the_place=the(draft.names.place()), the_thing=the(draft.names.thing())
    )
    draft.events.append(f"Event: {person} {deed}.")
    draft.tell("said", person, f"I heard that {person} {deed}.")


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
    return [Fact(*key, questions.UNKNOWN) for key in wanted if key not in draft.facts]


# Kinds that can be asked about the same subject.
RELATED = (
    ("where_person", "job", "mood", "hp", "gold", "carrying_person"),
    ("price", "left", "owner"),
    ("keeper", "rooms_free", "exits"),
    ("quest_state", "quest_giver", "quest_reward"),
    ("weakness", "beast_hp"),
)


def make_questions(
    rng: random.Random, scene: Scene, num_questions: int, *, held_out_wording: bool = False
) -> list[Question]:
    """Questions on ``scene`` with the right replies, facts of it mostly.

    ``held_out_wording`` asks in the words that training never uses.
    """
    return [_question(rng, scene, held_out_wording) for _ in range(num_questions)]


def _question(rng: random.Random, scene: Scene, held_out: bool) -> Question:
    draw = rng.random()
    if draw < 0.05:
        kind = rng.choice(list(questions.SMALL_TALK))
        fact = Fact(kind, "", questions.SMALL_TALK[kind])
        label = "small talk"
    elif draw < 0.07:
        return _ask(rng, scene, rng.choice(questions.OFF_TOPIC), questions.UNKNOWN, "off topic")
    elif draw < 0.17 and scene.absent:
        fact = rng.choice(scene.absent)
        label = "absent"
    else:
        # A kind first, so that the rare ones are asked as well; then a subject of that kind.
        kinds = sorted({fact.kind for fact in scene.facts})
        kind = rng.choice(kinds) if rng.random() < 0.5 else rng.choice(scene.facts).kind
        fact = rng.choice([fact for fact in scene.facts if fact.kind == kind])
        label = fact.kind
    wordings = questions.QUESTIONS[fact.kind]
    wording = wordings[-1] if held_out else rng.choice(wordings[:-1])
    return _ask(rng, scene, wording.format(e=fact.subject), fact.answer, label)


def _ask(rng: random.Random, scene: Scene, text: str, answer: str, kind: str) -> Question:
    speaker = "Player" if rng.random() < 0.85 else rng.choice(("Stranger", "Guest", "Hero", "Bran"))
    prefix = phrases.MANNERS[scene.manner][0]
    return Question(f"{speaker}: {text}", prefix + answer, kind)

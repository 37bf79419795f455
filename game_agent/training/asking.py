"""Questions on a scene, with the right replies."""

from __future__ import annotations

import random

from game_agent.text.formats import PLAIN
from game_agent.training import phrases
from game_agent.training.scene import (
    ABSENT,
    ACTION,
    CHOICE,
    LIST,
    ORDER,
    REFERENCE,
    TALK,
    TWO_FACTS,
    Fact,
    Question,
    Scene,
)
from game_agent.training.wordings import OFF_TOPIC, PRONOUNS, SMALL_TALK, UNKNOWN, WORDINGS

# Shares of the questions; the rest ask for a fact. Those without a base in a scene are left out.
SHARES = {
    "talk": 0.05,
    "off_topic": 0.015,
    "absent": 0.09,
    "request": 0.25,
    "it": 0.1,
    "choice": 0.06,
    "several": 0.12,
    "player": 0.14,
    "list": 0.06,
}
SEVERAL_BLOCKS = (TWO_FACTS, ORDER, REFERENCE)
# What the answers of a kind end with, one of few.
CLOSED: dict[str, tuple[str, ...]] = {
    "state": phrases.DOOR_STATES,
    "weather": tuple(phrases.WEATHERS),
    "time": tuple(phrases.TIMES),
    "season": tuple(phrases.SEASONS),
    "mood": tuple(phrases.MOODS),
    "quest_state": phrases.QUEST_STATES,
    "way": phrases.DIRECTIONS,
}
CHOOSE = (
    "{q} Choose: {o}.",
    "{q} Answer with one of: {o}.",
    "{q} Options: {o}.",
    "{q} Is it {o}?",
)
SPEAKERS = ("Stranger", "Guest", "Hero", "Bran")


def make_questions(
    rng: random.Random, scene: Scene, num_questions: int, *, held_out_wording: bool = False
) -> list[Question]:
    """Questions on ``scene`` with the right replies, facts of it mostly.

    ``held_out_wording`` asks in the words that training never uses.
    """
    asking = _Asking(rng, scene, held_out_wording)
    return [asking.question() for _ in range(num_questions)]


class _Asking:
    def __init__(self, rng: random.Random, scene: Scene, held_out: bool) -> None:
        self._rng = rng
        self._scene = scene
        self._held_out = held_out
        self._facts: dict[str, list[Fact]] = {}
        for fact in scene.facts:
            self._facts.setdefault(fact.kind, []).append(fact)
        self._named = [
            fact
            for fact in scene.facts
            if fact.subject and fact.subject == scene.last_asked and fact.kind in PRONOUNS
        ]
        self._closed = [fact for fact in scene.facts if _options(fact)[0]]
        self._several = [fact for fact in scene.facts if fact.skill in SEVERAL_BLOCKS]
        self._player = [f for f in scene.facts if f.kind == "way" or f.kind.endswith("_player")]
        self._lists = [fact for fact in scene.facts if fact.skill == LIST]
        bases = {
            "absent": scene.absent,
            "request": scene.requests,
            "it": self._named,
            "choice": self._closed,
            "several": self._several,
            "player": self._player,
            "list": self._lists,
        }
        self._sorts = [sort for sort in SHARES if bases.get(sort, True)]

    def question(self) -> Question:
        draw = self._rng.random()
        for sort in self._sorts:
            if draw < SHARES[sort]:
                return self._of_sort(sort)
            draw -= SHARES[sort]
        # A kind first, so that the rare ones are asked as well; then a subject of that kind.
        rng, kinds = self._rng, sorted(self._facts)
        kind = rng.choice(kinds) if rng.random() < 0.5 else rng.choice(self._scene.facts).kind
        fact = rng.choice(self._facts[kind])
        return self._ask(self._wording(fact.kind, fact.subject), fact)

    def _of_sort(self, sort: str) -> Question:
        pick = self._rng.choice
        if sort == "talk":
            kind = pick(list(SMALL_TALK))
            return self._ask(self._wording(kind), Fact("small_talk", "", SMALL_TALK[kind], TALK))
        if sort == "off_topic":
            text = pick(OFF_TOPIC.of(held_out=self._held_out))
            return self._ask(text, Fact("off_topic", "", UNKNOWN, ABSENT))
        if sort == "absent":
            fact = pick(self._scene.absent)
            return self._ask(
                self._wording(fact.kind, fact.subject),
                Fact("absent", fact.subject, fact.answer, ABSENT),
            )
        if sort == "it":
            fact = pick(self._named)
            kind = PRONOUNS[fact.kind]
            return self._ask(self._wording(kind), Fact(kind, "", fact.answer, REFERENCE))
        if sort == "request":
            fact = pick(self._scene.requests)
            return self._ask(self._wording(fact.kind, fact.subject), fact)
        if sort in ("several", "player", "list"):
            facts = {"several": self._several, "player": self._player, "list": self._lists}[sort]
            kinds = sorted({fact.kind for fact in facts})
            # Ways take longest to learn.
            kind = "way" if "way" in kinds and self._rng.random() < 0.4 else pick(kinds)
            fact = pick([fact for fact in facts if fact.kind == kind])
            return self._ask(self._wording(fact.kind, fact.subject), fact)
        return self._choice(pick(self._closed))

    def _choice(self, fact: Fact) -> Question:
        right, others = _options(fact)
        options = [right, *self._rng.sample(others, min(len(others), self._rng.randint(1, 3)))]
        self._rng.shuffle(options)
        listed = f"{', '.join(options[:-1])} or {options[-1]}"
        text = self._rng.choice(CHOOSE).format(q=self._wording(fact.kind, fact.subject), o=listed)
        reply = PLAIN.before_value + right
        return self._ask(text, Fact("choice", fact.subject, reply, CHOICE))

    def _wording(self, kind: str, subject: str = "") -> str:
        wordings = WORDINGS[kind].of(held_out=self._held_out)
        return self._rng.choice(wordings).format(e=subject)

    def _ask(self, text: str, fact: Fact) -> Question:
        rng = self._rng
        speaker = "Player" if rng.random() < 0.85 else rng.choice(SPEAKERS)
        spoken = fact.skill not in (ACTION, CHOICE)
        prefix = phrases.MANNERS[self._scene.manner][0] if spoken else ""
        return Question(f"{speaker}: {text}", prefix + fact.answer, fact.kind, fact.skill)


def _options(fact: Fact) -> tuple[str, list[str]]:
    """The value that ``fact`` gives and those that it might give; ("", []) for open kinds."""
    values = CLOSED.get(fact.kind, ())
    right = next((value for value in values if fact.answer.endswith(f" {value}.")), "")
    return (right, [v for v in dict.fromkeys(values) if v != right]) if right else ("", [])

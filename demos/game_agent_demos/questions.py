"""Questions about a world state, their true answers, and whether a reply in words agrees."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from game_agent_demos.state import State

CARRY, NOTHING, UNKNOWN, NOT = "carry", "nothing", "unknown", "not"
# Words that mean something in a reply, besides the names of the world.
WORDS = {
    **{way: way for way in ("north", "east", "south", "west", "open", "closed", "locked")},
    **dict.fromkeys(("carry", "carrying", "have", "hold", "holding", "inventory"), CARRY),
    **dict.fromkeys(("nothing", "empty"), NOTHING),
    **dict.fromkeys(
        (f"{do} anything" for do in ("not carry", "not carrying", "not have")), NOTHING
    ),
    **dict.fromkeys(("do not know", "don't know", "gone", "nowhere"), UNKNOWN),
    **dict.fromkeys(("not", "isn't", "no longer", "never"), NOT),
}
# What may stand before a name. After any other word it is the end of a longer, made-up name.
BEFORE_NAME = frozenset(
    {"a", "an", "and", "at", "from", "in", "is", "of", "on", "the", "to", "your"}
    | {"carry", "carrying", "find", "have", "hold", "holding"}
)
SPOKEN_MOST = 4  # things named in one reply
CHANGED_SHARE = 0.8


@dataclass(frozen=True)
class Question:
    """``expected``: what a true answer mentions, besides ``subject``, which it may mention."""

    text: str
    kind: str
    expected: frozenset[str]
    subject: str = ""
    names: frozenset[str] = frozenset()
    """All that the world has names for."""


def agrees(question: Question, answer: str) -> bool:
    """Whether ``answer`` says what is true: all that is expected, and nothing that contradicts.

    Any other thing, place, way or state that it mentions counts as a contradiction.
    """
    found = mentions(answer, question.names | {question.subject} - {""})
    return found is not None and found - {question.subject} == question.expected


def mentions(answer: str, names: Iterable[str]) -> frozenset[str] | None:
    """Names and meanings of :data:`WORDS` in ``answer``; longer ones win over those inside them.

    None if the answer gives something a name that the world does not have: ``the silver key`` where
    there is only a ``key``.
    """
    meaning = {_split(name): name for name in names}
    meaning.update({_split(words): value for words, value in WORDS.items()})
    longest = max(map(len, meaning))
    words, found, start, before = _split(answer), set(), 0, "the"
    while start < len(words):
        stops = range(min(len(words), start + longest), start, -1)
        stop = next((stop for stop in stops if words[start:stop] in meaning), None)
        if stop is None:
            before = words[start]
            start += 1
            continue
        phrase = words[start:stop]
        if " ".join(phrase) not in WORDS and before not in BEFORE_NAME:
            return None
        found.add(meaning[phrase])
        start, before = stop, "and"
    return frozenset(found)


def next_question(before: State, after: State, rng: random.Random) -> Question:
    """A question about ``after``, mostly one that had another answer, or none, in ``before``."""
    old = {question.text: question.expected for question in questions(before)}
    present = list(questions(after))
    changed = [q for q in present if old.get(q.text) != q.expected]
    changed += list(_vanished(before, after))
    pool = changed if changed and rng.random() < CHANGED_SHARE else present
    kind = rng.choice(sorted({question.kind for question in pool}))
    return rng.choice([question for question in pool if question.kind == kind])


def questions(state: State) -> Iterator[Question]:
    """Everything that can be asked about ``state``, in its order."""
    names = _names(state)
    here, carrying = state["player"]["at"], state["player"]["carrying"]
    yield Question("Where am I?", "place", frozenset({here}), names=names)
    if len(carrying) <= SPOKEN_MOST:
        expected = frozenset(carrying or [NOTHING])
        yield Question("What am I carrying?", "carrying", expected, CARRY, names)
    for room, entry in state.get("nearby", {}).items():
        yield Question(f"Which way is the {room}?", "way", frozenset({entry["way"]}), room, names)
    for thing, entry in state["things"].items():
        place = next(value for key, value in entry.items() if key != "kind")
        expected = frozenset({CARRY if "held by" in entry else place})
        yield Question(f"Where is the {thing}?", "thing", expected, thing, names)
    for name, entry in [*state.get("doors", {}).items(), *state.get("containers", {}).items()]:
        expected = frozenset({entry["state"]})
        yield Question(f"Is the {name} open?", "state", expected, name, names)
    for container in state.get("containers", {}):
        inside = [name for name, entry in state["things"].items() if entry.get("in") == container]
        if len(inside) <= SPOKEN_MOST:
            expected = frozenset(inside or [NOTHING])
            text = f"What is in the {container}?"
            yield Question(text, "contents", expected, container, names)


def _vanished(before: State, after: State) -> Iterator[Question]:
    """Where the things are that are no more: eaten, for example."""
    names = _names(before)
    for thing in sorted(before["things"].keys() - after["things"].keys()):
        yield Question(f"Where is the {thing}?", "thing", frozenset({UNKNOWN}), thing, names)


def _names(state: State) -> frozenset[str]:
    sections = ("rooms", "things", "doors", "containers")
    return frozenset(name for section in sections for name in state.get(section, {}))


def _split(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[\w'-]+", text.lower().replace("’", "'")))

"""What was said and what happened before: turns and events, which become blocks of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from game_agent.training import phrases
from game_agent.training.draft import Draft
from game_agent.training.names import spoken_list, the
from game_agent.training.scene import ONE_FACT, ORDER, REFERENCE, Fact
from game_agent.training.sections import spoken_exits, spoken_ways
from game_agent.training.wordings import OFF_TOPIC, UNKNOWN, WORDINGS

SAME_PLACE = "went to the same place"
GOAL = "goal_player"


def add_history(draft: Draft, room: int) -> None:
    """Turns and events for a scene of about ``room`` blocks."""
    # Now and then a long talk, mostly about what has changed since.
    is_long = draft.chance(0.25)
    for _ in range(draft.rng.randint(0, min(20 if is_long else 8, room // 2))):
        if draft.chance(0.9 if is_long else 0.5):
            _add_past_question(draft, _of_one_kind(draft))
        else:
            _add_turn(draft)
    subjects = [fact.subject for fact in draft.facts.values()]
    several = [fact for fact in draft.facts.values() if subjects.count(fact.subject) > 1]
    if draft.chance(0.3) and (named := [fact for fact in several if fact.subject]):
        _add_past_question(draft, named)
    if draft.chance(0.35):
        _add_events(draft, draft.rng.randint(2, max(2, min(10, room))))
    else:
        _add_events(draft, draft.rng.randint(0, min(4, room // 4)))


def _add_turn(draft: Draft) -> None:
    """Something the player said earlier: who they are, what they look for, or nothing of note."""
    name, home, goal = draft.names.person(), draft.names.town(), draft.names.thing()
    again = (GOAL, "") in draft.facts
    now = "Now " if again else ""
    said, kind, answer = draft.pick(
        (
            (f"My name is {name}.", "name_player", f"You are {name}."),
            (f"I am {name}.", "name_player", f"You are {name}."),
            (f"I come from {home}.", "home_player", f"You come from {home}."),
            (f"My home is {home}.", "home_player", f"You come from {home}."),
            (f"{now}I am looking for the {goal}.", GOAL, f"You look for the {goal}."),
            (f"{now}I seek the {goal}.", GOAL, f"You look for the {goal}."),
            (draft.pick(OFF_TOPIC.train), "", ""),
        )
    )
    if kind == GOAL:
        draft.tell_anew(kind, "", answer, ORDER if again else ONE_FACT)
    elif kind:
        if (kind, "") in draft.facts:
            return
        draft.tell(kind, "", answer)
    _add_exchange(draft, said, draft.pick(phrases.REPLIES) if kind else UNKNOWN, "")


def _of_one_kind(draft: Draft) -> list[Fact]:
    """Facts of a kind that is picked first, so that the rare ones are talked about as well."""
    kind = draft.pick(sorted({kind for kind, _ in draft.facts}))
    return [fact for fact in draft.facts.values() if fact.kind == kind]


def _add_past_question(draft: Draft, facts: Sequence[Fact]) -> None:
    """A question that was answered earlier, when things may have been otherwise: the world counts,
    not what was said about it."""
    fact = draft.pick(facts)
    wording = draft.pick(WORDINGS[fact.kind].train)
    answer = fact.answer if draft.chance(0.4) else _outdated(draft, fact)
    _add_exchange(draft, wording.format(e=fact.subject), answer, fact.subject)


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
        return f"You can go {draft.pick((spoken_exits, spoken_ways))(exits)}."
    others = [f for f in draft.facts.values() if f.kind == fact.kind and f.subject != fact.subject]
    if not others:
        return fact.answer
    other = draft.pick(others)
    return other.answer.replace(other.subject, fact.subject)


def _add_exchange(draft: Draft, said: str, reply: str, subject: str) -> None:
    prefix = phrases.MANNERS[draft.manner][0]
    draft.turns.append(f"Player: {said}\n{draft.me}: {prefix}{reply}")
    draft.last_asked = subject


@dataclass(frozen=True)
class _Deed:
    text: str
    place: str = ""
    """Where it led, resolved; "" if nowhere."""


def _add_events(draft: Draft, num_events: int) -> None:
    """Events about strangers to the world's state, some about the same one several times."""
    deeds: dict[str, list[_Deed]] = {}
    last_place = ""
    for _ in range(num_events):
        known = deeds and draft.chance(0.45)
        person = draft.pick(list(deeds)) if known else draft.names.person()
        deed = _deed(draft, last_place)
        last_place = deed.place or last_place
        deeds.setdefault(person, []).append(deed)
        draft.events.append(f"Event: {person} {deed.text}.")
    _tell_deeds(draft, deeds)


def _deed(draft: Draft, last_place: str) -> _Deed:
    if last_place and draft.chance(0.15):
        return _Deed(SAME_PLACE, last_place)
    place = draft.names.place()
    if draft.chance(0.3):
        return _Deed(f"went to {the(place)}", place)
    deed = draft.pick(phrases.DEEDS)
    return _Deed(deed.format(the_place=the(place), the_thing=the(draft.names.thing())))


def _tell_deeds(draft: Draft, deeds: Mapping[str, Sequence[_Deed]]) -> None:
    for person, done in deeds.items():
        skill = ORDER if len(done) > 1 else ONE_FACT
        if len(done) == 1:
            draft.tell("said", person, f"I heard that {person} {done[0].text}.")
        draft.tell("last_deed", person, f"I heard that {person} {done[-1].text}.", skill)
        draft.tell("first_deed", person, f"I heard that {person} {done[0].text}.", skill)
        if visits := [deed for deed in done if deed.place]:
            skill = ORDER if len(visits) > 1 else ONE_FACT
            skill = REFERENCE if visits[-1].text == SAME_PLACE else skill
            draft.tell("went", person, f"{person} went to {the(visits[-1].place)}.", skill)

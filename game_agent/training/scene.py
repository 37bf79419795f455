"""A scene: the blocks of a prompt, what they tell, and a question with its right reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from game_agent.agents.actions import Action

# What it takes to answer.
ONE_FACT = "one fact"
"""It stands in one block."""
LIST = "list"
"""One block, several names in the reply."""
TWO_FACTS = "two facts"
"""One block names what another tells about."""
ORDER = "order"
"""Several blocks tell of the same thing; which of them came last, or first, decides."""
REFERENCE = "reference"
"""What "it" or "the same place" means stands in another block."""
ABSENT = "absent"
"""No block tells it; the reply says so."""
TALK = "talk"
"""Nothing to look up but the manner of speech, and the speaker's own name and trade."""
ACTION = "action"
"""What is to be done, as JSON, out of the actions that the last block offers."""
CHOICE = "choice"
"""One fact; the reply is one of the options that the question names, and nothing else."""
SKILLS = (ONE_FACT, LIST, TWO_FACTS, ORDER, REFERENCE, ABSENT, TALK, ACTION, CHOICE)


@dataclass(frozen=True)
class Fact:
    """Something that can be asked: ``kind`` of :data:`wordings.WORDINGS`, about ``subject``.

    ``answer`` is the plain sentence, without the speaker's manner; ``skill`` one of
    :data:`SKILLS`.
    """

    kind: str
    subject: str
    answer: str
    skill: str = ONE_FACT


@dataclass(frozen=True)
class Question:
    """``event`` is asked, ``reply`` is right; ``kind`` and ``skill`` as of the fact behind it."""

    event: str
    reply: str
    kind: str
    skill: str = ONE_FACT


@dataclass(frozen=True)
class Scene:
    """The blocks of a prompt, in order; the first is the character.

    absent:     questions on what this scene does not tell
    last_asked: the subject of the last turn, which "it" in the next question means; "" if none
    actions:    what the character can do; if any, the last block tells them
    requests:   what the player may ask for, and the action, as JSON, that does it
    """

    state: dict[str, Any]
    blocks: tuple[str, ...]
    facts: tuple[Fact, ...]
    manner: str
    absent: tuple[Fact, ...]
    last_asked: str = ""
    actions: tuple[Action, ...] = ()
    requests: tuple[Fact, ...] = ()

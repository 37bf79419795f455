"""What the engine is to do for one question, and what its end means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from game_agent.agents.actions import Action
from game_agent.agents.pointer import Json
from game_agent.agents.values import View
from game_agent.engine import Completion, Engine
from game_agent.engine.grammar import Grammar

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Choice:
    """One of the options that were given; ``scores`` are theirs, in the same order.

    A score is the logarithm of the probability that the character replies exactly this, or with
    ``normalize`` its mean over the option's tokens.
    """

    index: int
    option: str
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What a question came to.

    text:   what is said; of a choice the option, of an action its JSON
    reply:  what memory keeps of it; None: nothing happened
    action: what is done, None unless it is complete
    """

    text: str
    reply: str | None
    action: Json = None
    choice: Choice | None = None


@dataclass(frozen=True)
class Task:
    """What a question asks of the engine, as things stand when its turn comes.

    reserve_tokens: room that the prompt has to leave after the event
    is_spoken:      the reply is text, which may be streamed and stopped
    told:           text of a block before the event; empty: none
    max_tokens, options, normalize, grammar: see the engine's ``Request``
    read:           what its end means; raises :class:`GameAgentError` if it cannot be used
    """

    reserve_tokens: int
    read: Callable[[Completion], Outcome]
    is_spoken: bool = False
    told: str = ""
    max_tokens: int = 0
    options: tuple[Ints, ...] = ()
    normalize: bool = False
    grammar: Grammar | None = None


@dataclass(frozen=True)
class Setting:
    """What a question may look at when its turn comes. ``actions`` are the agent's own."""

    engine: Engine
    view: View
    actions: tuple[Action, ...]


class Question(Protocol):
    """A kind of question."""

    def check(self, setting: Setting) -> None:
        """Find out at once what could never be done. Raises :class:`InvalidInput`."""
        ...

    def task(self, max_tokens: int, setting: Setting) -> Task:
        """What is to be done now; ``max_tokens`` is the most that a reply may have.

        Raises :class:`GameAgentError` where nothing can be done.
        """
        ...

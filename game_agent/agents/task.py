"""What the engine is to do for one question, and what its end means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from game_agent.agents.patch import Json
from game_agent.engine import Completion, Engine

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
    """What a question came to. ``reply`` is what memory keeps of it; None: nothing happened."""

    reply: str | None
    choice: Choice | None = None


@dataclass(frozen=True)
class Task:
    """What a question asks of the engine, as things stand when its turn comes.

    reserve_tokens: room that the prompt has to leave after the event
    max_tokens, options, normalize: see the engine's ``Request``
    read:           what its end means
    """

    reserve_tokens: int
    read: Callable[[Completion], Outcome]
    max_tokens: int = 0
    options: tuple[Ints, ...] = ()
    normalize: bool = False


@dataclass(frozen=True)
class Setting:
    """What a question may look at when its turn comes: the model, and the world by what is seen."""

    engine: Engine
    state: Mapping[str, Json]
    sees: Collection[str]


class Question(Protocol):
    """A kind of question."""

    def task(self, max_tokens: int, setting: Setting) -> Task:
        """What is to be done now; ``max_tokens`` is the most that a reply may have.

        Raises :class:`GameAgentError` where nothing can be done.
        """
        ...

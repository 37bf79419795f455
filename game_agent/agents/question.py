"""The kinds of questions: say something, choose one of several options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from game_agent.agents.patch import check_json
from game_agent.agents.rendering import collapse
from game_agent.agents.task import Choice, Outcome, Setting, Task
from game_agent.engine import Completion
from game_agent.errors import InvalidInput, TooLarge

MAX_OPTIONS = 256


@dataclass(frozen=True)
class Say:
    """Spoken text."""

    def task(self, max_tokens: int, setting: Setting) -> Task:
        return Task(reserve_tokens=max_tokens, read=_said, max_tokens=max_tokens)


def _said(completion: Completion) -> Outcome:
    whole = completion.finish_reason in ("stop", "length")
    return Outcome(completion.text if whole or completion.text else None)


SAY = Say()


@dataclass(frozen=True)
class Choose:
    """One of ``options``, none of them generated: each is scored as the whole reply.

    normalize: divide scores by the number of tokens, so that long options are not at a disadvantage

    Above temperature 0 the choice is drawn as if scores were logits. Of options with equal scores
    the first wins. Raises :class:`InvalidInput` for options that are none.
    """

    options: Sequence[str]
    normalize: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not isinstance(self.options, Sequence):
            raise InvalidInput("options are a list of texts", where="options")
        if not self.options:
            raise InvalidInput("there is nothing to choose from", where="options")
        if len(self.options) > MAX_OPTIONS:
            raise TooLarge(
                f"there are {len(self.options)} options, {MAX_OPTIONS} at most", where="options"
            )
        for index, option in enumerate(self.options):
            check_json(option, f"options/{index}")
            if not isinstance(option, str) or not collapse(option):
                raise InvalidInput("an option is a text, and not blank", where=f"options/{index}")

    def task(self, max_tokens: int, setting: Setting) -> Task:
        runner = setting.engine.runner
        # The end of a reply is scored too: "call" is not likely because "call the guards" is.
        end = [] if runner.end_token_id is None else [runner.end_token_id]
        ids = [runner.tokenizer.encode(collapse(option)) + end for option in self.options]
        options = tuple(np.array(each, np.int32) for each in ids)
        return Task(
            reserve_tokens=max(map(len, options)),
            read=self._chosen,
            options=options,
            normalize=self.normalize,
        )

    def _chosen(self, completion: Completion) -> Outcome:
        if completion.choice is None:
            return Outcome(None)
        index, scores = completion.choice.index, completion.choice.scores
        option = self.options[index]
        return Outcome(option, choice=Choice(index, option, scores))

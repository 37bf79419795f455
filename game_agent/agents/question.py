"""The kinds of questions: say something, choose one of several options, do something."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from game_agent.agents.actions import (
    Action,
    actions_schema,
    actions_text,
    done_text,
    read_action,
)
from game_agent.agents.limits import MAX_OPTION_CHARS, check_text
from game_agent.agents.patch import check_json
from game_agent.agents.rendering import collapse
from game_agent.agents.task import Choice, Outcome, Setting, Task
from game_agent.engine import Completion
from game_agent.errors import GameAgentError, InvalidInput, TooLarge

MAX_OPTIONS = 256


@dataclass(frozen=True)
class Say:
    """Spoken text."""

    def check(self, setting: Setting) -> None:
        """Anything can be said."""

    def task(self, max_tokens: int, setting: Setting) -> Task:
        return Task(max_tokens, _said, is_spoken=True, max_tokens=max_tokens)


def _said(completion: Completion) -> Outcome:
    whole = completion.finish_reason in ("stop", "length")
    text = completion.text
    return Outcome(text, text if whole or text else None)


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
            check_text(option, f"options/{index}", MAX_OPTION_CHARS, "an option")
            if not isinstance(option, str) or not collapse(option):
                raise InvalidInput("an option is a text, and not blank", where=f"options/{index}")

    def check(self, setting: Setting) -> None:
        """Options were checked when they were given."""

    def task(self, max_tokens: int, setting: Setting) -> Task:
        runner = setting.engine.runner
        # The end of a reply is scored too: "call" is not likely because "call the guards" is.
        end = [] if runner.end_token_id is None else [runner.end_token_id]
        before = runner.encoder.format.before_value
        ids = [runner.tokenizer.encode(before + collapse(each)) + end for each in self.options]
        options = tuple(np.array(each, np.int32) for each in ids)
        return Task(
            max(map(len, options)),
            self._chosen,
            options=options,
            normalize=self.normalize,
        )

    def _chosen(self, completion: Completion) -> Outcome:
        if completion.choice is None:
            return Outcome("", None)
        index, scores = completion.choice.index, completion.choice.scores
        option = self.options[index]
        return Outcome(option, option, choice=Choice(index, option, scores))


@dataclass(frozen=True)
class Act:
    """One of ``actions`` (None: the agent's own), or any JSON that a JSON Schema describes.

    What the world does not have, or the agent does not see, cannot be named. An action is whole or
    it is none: if it is cut off by ``max_tokens`` or a deadline, nothing was done.
    """

    actions: tuple[Action, ...] | None = None
    schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.actions is not None and self.schema is not None:
            raise InvalidInput("either actions or a schema, not both", where="schema")

    def check(self, setting: Setting) -> None:
        """Raises :class:`InvalidInput` for a schema that cannot be kept, or without any action."""
        if self.schema is not None:
            setting.engine.grammars.compile(self.schema, "schema")
            return
        schema = actions_schema(self._possible(setting), None)
        if schema is None:
            message = "the agent has no actions; give it some, or ask with a schema"
            raise InvalidInput(message, where="schema")
        setting.engine.grammars.compile(schema, "actions")

    def task(self, max_tokens: int, setting: Setting) -> Task:
        compiler = setting.engine.grammars
        if self.schema is not None:
            grammar = compiler.compile(self.schema)
            return Task(max_tokens, _made, max_tokens=max_tokens, grammar=grammar)
        actions = self._possible(setting)
        before = setting.engine.runner.encoder.format.before_value
        schema = actions_schema(actions, setting.view, before)
        if schema is None:
            message = "no action is possible: the world has nothing that they could name"
            raise InvalidInput(message, where="actions")
        return Task(
            max_tokens,
            partial(_done, actions, before),
            told=actions_text(actions),
            max_tokens=max_tokens,
            grammar=compiler.compile(schema),
        )

    def _possible(self, setting: Setting) -> tuple[Action, ...]:
        return setting.actions if self.actions is None else self.actions


def _made(completion: Completion) -> Outcome:
    """JSON as the schema has it."""
    if completion.finish_reason != "stop":
        return Outcome("", None)
    return Outcome(completion.text, completion.text, _read(completion.text))


def _done(actions: Sequence[Action], before: str, completion: Completion) -> Outcome:
    """A call of a function."""
    if completion.finish_reason != "stop":
        return Outcome("", None)
    action = read_action(actions, _read(completion.text), before)
    return Outcome(json.dumps(action, ensure_ascii=False), done_text(action), action)


def _read(text: str) -> Any:
    try:
        value = json.loads(text)
        check_json(value)
    except (ValueError, RecursionError, InvalidInput) as error:
        # Within the schema, but beyond JSON as programs read it: a number of 400 digits.
        raise GameAgentError(
            f"the action cannot be used: {error}; bound it in the schema"
        ) from None
    return value

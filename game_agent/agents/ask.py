"""One question to an agent: its options, its life, its answer."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from game_agent.agents.limits import MAX_STOP_CHARS, MAX_STOPS, check_text
from game_agent.agents.memory import Memory
from game_agent.agents.pointer import Json
from game_agent.agents.question import SAY
from game_agent.agents.task import Choice, Question, Task
from game_agent.engine import Completion, Handle, Sampling, Usage
from game_agent.engine.request import FinishReason, Mode
from game_agent.engine.timers import Timer
from game_agent.errors import GameAgentError, InvalidInput, TooLarge


@dataclass(frozen=True)
class AskOptions:
    """How a question is to be answered.

    max_tokens:  most tokens of the reply
    temperature: 0 is greedy; top_p, top_k (0: all) and seed matter above it
    stop:        texts that end the reply
    deadline_ms: from now; the answer then ends with what it has
    priority:    higher ones are computed first
    replaces:    waiting and running questions to the same agent end as ``superseded``
    remember:    the turn goes into memory; such questions are answered one after another
    mode:        "block", "full" or "contextual"; None is the runtime's default
    game_time:   the game's own time of the turn, for ``rewind``
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    deadline_ms: float | None = None
    priority: int = 0
    replaces: bool = False
    remember: bool = True
    mode: Mode | None = None
    game_time: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidInput("max_tokens must be at least 1", where="max_tokens")
        if self.deadline_ms is not None and self.deadline_ms <= 0:
            raise InvalidInput("deadline_ms must be positive", where="deadline_ms")
        if len(self.stop) > MAX_STOPS:
            raise TooLarge(f"at most {MAX_STOPS} texts end a reply", where="stop")
        for index, text in enumerate(self.stop):
            check_text(text, f"stop/{index}", MAX_STOP_CHARS, "a text that ends the reply")
        self.sampling()

    def sampling(self) -> Sampling:
        """The sampling part; raises :class:`InvalidInput` for values out of range."""
        return Sampling(self.temperature, self.top_p, self.seed, self.top_k)


@dataclass(frozen=True)
class Answer:
    """The end of a question. ``seq`` is the version of the world that was seen.

    text:   what is said; of a choice the option, of an action its JSON
    action: of ``act``, None unless it is complete
    choice: of ``choose``, None if it was ended before
    """

    text: str
    seq: int
    finish_reason: FinishReason
    usage: Usage
    action: Json = None
    choice: Choice | None = None


class AskListener(Protocol):
    """Hears of one question, from the engine's thread: texts, then exactly one end."""

    def on_text(self, index: int, text: str) -> None: ...

    def on_done(self, answer: Answer) -> None: ...

    def on_error(self, error: GameAgentError) -> None: ...


class AskOwner(Protocol):
    """The agent behind a question."""

    def cancel_ask(self, ask: Ask, reason: FinishReason) -> None: ...

    def ask_finished(self, ask: Ask, completion: Completion) -> None: ...

    def ask_failed(self, ask: Ask, error: GameAgentError) -> None: ...

    def ask_heard(self, ask: Ask, num_chars: int) -> None: ...


class Ask:
    """One question to an agent, waiting, running or done. It is the engine's listener."""

    def __init__(
        self,
        owner: AskOwner,
        speaker: str,
        text: str,
        options: AskOptions,
        listener: AskListener,
        peer: str = "",
        question: Question = SAY,
    ) -> None:
        self._owner = owner
        self.speaker = speaker
        self.text = text
        self.options = options
        self.listener = listener
        self.peer = peer
        self.question = question
        self.task: Task | None = None
        self.handle: Handle | None = None
        self.timer: Timer | None = None
        self.asked_s = 0.0
        self.deadline_s: float | None = None
        self.seq = 0
        self.done = False
        self.is_forgotten = not self.options.remember
        self.turn: tuple[Memory, int] | None = None
        self.heard_chars: int | None = None

    def heard(self, num_chars: int) -> None:
        """Only the first ``num_chars`` characters of the answer were heard; memory keeps no more.

        May be called while the answer is still on its way. Raises :class:`InvalidInput`.
        """
        self._owner.ask_heard(self, num_chars)

    def cancel(self, reason: FinishReason = "cancelled") -> None:
        """End it with what it has; after its end this does nothing."""
        self._owner.cancel_ask(self, reason)

    def on_text(self, index: int, text: str) -> None:
        if self.task is not None and self.task.is_spoken:
            self.listener.on_text(index, text)

    def on_done(self, completion: Completion) -> None:
        self._owner.ask_finished(self, completion)

    def on_error(self, error: GameAgentError) -> None:
        self._owner.ask_failed(self, error)


class Reply:
    """The answer to a question as it comes: iterate for its pieces, then read ``answer``."""

    ask: Ask

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[str | Answer | GameAgentError] = queue.SimpleQueue()
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        while self.answer is None:
            event = self._events.get()
            if isinstance(event, GameAgentError):
                raise event
            if isinstance(event, Answer):
                self.answer = event
            else:
                yield event

    def wait(self) -> Answer:
        """Wait for the end; the whole answer. Raises the question's error, if it failed."""
        for _ in self:
            continue
        assert self.answer is not None
        return self.answer

    def text(self) -> str:
        """Wait for the end; the whole reply. Raises what :meth:`wait` raises."""
        return self.wait().text

    def action(self) -> Any:
        """Wait for the end; what is done, None if it was cut off. Raises what :meth:`wait` raises.

        ``{"name": …, "arguments": {…}}``, or what the schema asked for.
        """
        return self.wait().action

    def choice(self) -> Choice | None:
        """Wait for the end; what was chosen, None if it ended before. Raises as :meth:`wait`."""
        return self.wait().choice

    def cancel(self) -> None:
        """End the reply with what it has."""
        self.ask.cancel()

    def heard(self, num_chars: int) -> None:
        """Let memory keep only the first ``num_chars`` characters, which the player heard."""
        self.ask.heard(num_chars)

    def on_text(self, index: int, text: str) -> None:
        self._events.put(text)

    def on_done(self, answer: Answer) -> None:
        self._events.put(answer)

    def on_error(self, error: GameAgentError) -> None:
        self._events.put(error)

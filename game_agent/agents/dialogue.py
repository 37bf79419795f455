"""The questions to one agent that are under way: begun, ended early, answered."""

from __future__ import annotations

import threading
from functools import partial

from game_agent.agents.ask import Answer, Ask
from game_agent.agents.line import AskLine, report
from game_agent.agents.memory import check_heard
from game_agent.agents.mind import Mind
from game_agent.clock import Clock
from game_agent.engine import Completion, Engine, Usage
from game_agent.engine.request import FinishReason
from game_agent.errors import GameAgentError


class Dialogue:
    """Hands a mind's questions to the engine when their turn comes; the owner of every ``Ask``."""

    def __init__(self, mind: Mind, engine: Engine, lock: threading.RLock, clock: Clock) -> None:
        self._mind = mind
        self._engine = engine
        self._lock = lock
        self._clock = clock
        self._line = AskLine(self._start)

    def add(self, ask: Ask) -> None:
        """Put a question, or have it wait for those before it. Raises what the engine raises."""
        with self._lock:
            if ask.options.replaces:
                for other in self._line.open():
                    other.cancel("superseded")
            is_begun = self._line.add(ask)
            if not is_begun and ask.deadline_s is not None:
                ask.timer = self._engine.call_at(ask.deadline_s, partial(ask.cancel, "deadline"))

    def end_all(self, *, is_forgotten: bool = False) -> None:
        """End all that is open; ``is_forgotten``: none of it is remembered."""
        with self._lock:
            for ask in self._line.open():
                ask.is_forgotten = ask.is_forgotten or is_forgotten
                ask.cancel()

    def _start(self, ask: Ask) -> None:
        """Build the prompt from what is known now and hand it to the engine."""
        if ask.timer is not None:
            ask.timer.cancel()
        try:
            ask.handle = self._engine.submit(self._mind.request(ask), ask)
        except GameAgentError:
            ask.done = True
            raise

    def ask_heard(self, ask: Ask, num_chars: int) -> None:
        check_heard(num_chars)
        with self._lock:
            ask.heard_chars = num_chars
            if ask.turn is not None:
                # Its own memory: one that was loaded since may have another turn of that index.
                memory, index = ask.turn
                memory.heard(index, num_chars)

    def cancel_ask(self, ask: Ask, reason: FinishReason) -> None:
        with self._lock:
            if ask.done:
                return
            if ask.handle is not None:
                ask.handle.cancel(reason)
                return
            self._line.leave(ask)
            ask.done = True
            if ask.timer is not None:
                ask.timer.cancel()
        waited_ms = 1e3 * (self._clock.now_s() - ask.asked_s)
        usage = Usage(queue_ms=waited_ms, ttft_ms=waited_ms, total_ms=waited_ms)
        ask.listener.on_done(Answer("", self._mind.world.seq, reason, usage))

    def ask_finished(self, ask: Ask, completion: Completion) -> None:
        """The engine is done with ``ask``: remember it, begin the next, tell its listener."""
        assert ask.task is not None, "the engine answers what it was asked"
        try:
            outcome = ask.task.read(completion)
        except GameAgentError as error:
            self.ask_failed(ask, error)
            return
        with self._lock:
            if not ask.is_forgotten and outcome.reply is not None:
                self._mind.remember(ask, outcome.reply)
            ask.done = True
            failed = self._line.end(ask)
        reason, usage = completion.finish_reason, completion.usage
        ask.listener.on_done(
            Answer(outcome.text, ask.seq, reason, usage, outcome.action, outcome.choice)
        )
        report(failed)

    def ask_failed(self, ask: Ask, error: GameAgentError) -> None:
        with self._lock:
            ask.done = True
            failed = self._line.end(ask)
        ask.listener.on_error(error)
        report(failed)

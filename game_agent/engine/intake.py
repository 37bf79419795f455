"""Requests on their way to the engine's thread, and what it waits for while it has none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial

import numpy as np

from game_agent.blocks.store import BlockStore, Entry
from game_agent.blocks.tiers import Tiers
from game_agent.clock import Clock
from game_agent.engine.request import FinishReason, Listener, Request
from game_agent.engine.sequence import Sequence
from game_agent.engine.timers import Timer, Timers
from game_agent.engine.waiter import Waiter
from game_agent.errors import Overloaded, Unavailable
from game_agent.model.runner import ModelRunner
from game_agent.text.stream import TextStream


class Intake:
    """Takes requests from any thread; a request waits until the tiers brought back what they have.

    ``wake`` guards it, and is told of all that is new.
    """

    def __init__(
        self,
        runner: ModelRunner,
        store: BlockStore,
        tiers: Tiers | None,
        clock: Clock,
        max_open: int,
    ) -> None:
        self.wake = threading.Condition()
        self.news = np.zeros(1, np.int32)  # not 0 from something new on until it is taken
        self._runner = runner
        self._store = store
        self._tiers = tiers
        self._clock = clock
        self._max_open = max_open
        self._num_open = 0
        self._arrivals = 0
        self._is_closed = False
        self._may_have_idle_work = False
        self._new: list[Sequence] = []
        self._endings: list[tuple[Sequence, FinishReason]] = []
        self._timers = Timers()
        self._fetching: set[Sequence] = set()

    # Called from any thread

    def put(self, requests: Seq[tuple[Request, Listener]], now_s: float) -> list[Sequence]:
        """Queue requests, submitted at ``now_s``, so that the next step sees all of them.

        Raises :class:`Overloaded` (too many wait) or :class:`Unavailable` (closed).
        """
        with self.wake:
            if self._is_closed:
                raise Unavailable("the engine is closed")
            if self._num_open + len(requests) > self._max_open:
                raise Overloaded(f"{self._num_open} requests wait already", retry_after_ms=1000)
            sequences = self._made(requests, now_s)
            self._new += sequences
            self._ring()
        return sequences

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Have the next step end it."""
        with self.wake:
            self._endings.append((sequence, reason))
            self._ring()

    def poke(self) -> bool:
        """There may be something for idle time. False: too late, it is closed."""
        with self.wake:
            if not self._is_closed:
                self._may_have_idle_work = True
                self._ring()
            return not self._is_closed

    def call_at(self, when_s: float, call: Callable[[], None]) -> Timer:
        """Have ``call`` made in the engine's thread at ``when_s``, or one step later."""
        with self.wake:
            self._ring()
            return self._timers.add(when_s, call)

    def close(self) -> None:
        with self.wake:
            self._is_closed = True
            self._ring()

    # Called from the engine's thread

    def wait(self, has_work: Callable[[], bool]) -> bool:
        """Wait until ``has_work``, asked again at all that is new; False: it was closed."""
        with self.wake:
            while not (self._is_closed or has_work()):
                due_s = self._timers.next_s()
                self.wake.wait(None if due_s is None else due_s - self._clock.now_s())
            return not self._is_closed

    def has_news(self) -> bool:
        due_s = self._timers.next_s()
        is_due = due_s is not None and due_s <= self._clock.now_s()
        return bool(self._new or self._endings or self._has_idle_work() or is_due)

    def take_due(self, now_s: float) -> list[Callable[[], None]]:
        """The calls whose time has come."""
        with self.wake:
            return self._timers.take_due(now_s)

    def take(self) -> tuple[list[Sequence], list[tuple[Sequence, FinishReason]]]:
        """Requests that are new, and those that are to be ended."""
        with self.wake:
            new, self._new = self._new, []
            endings, self._endings = self._endings, []
            self.news[0] = 0
        return new, endings

    def is_ending(self, sequence: Sequence) -> bool:
        """Whether the next step ends it."""
        with self.wake:
            return any(ending is sequence for ending, _ in self._endings)

    def take_poke(self) -> bool:
        """Whether there may be something for idle time; :meth:`poke` says so again."""
        with self.wake:
            if not self._has_idle_work():
                return False
            self._may_have_idle_work = False
            return True

    def own(self, request: Request) -> Sequence:
        """A request of the engine's own, for which nobody waits."""
        with self.wake:
            return self._made([(request, Waiter())], self._clock.now_s())[0]

    @property
    def num_fetching(self) -> int:
        return len(self._fetching)

    def is_fetching(self, sequence: Sequence) -> bool:
        return sequence in self._fetching

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
        with self.wake:
            self._fetching.discard(sequence)
            self._num_open -= 1

    def _ring(self) -> None:
        self.news[0] = 1
        self.wake.notify()

    def _has_idle_work(self) -> bool:
        # Blocks that a tier has are missing until they are back: they would be asked for again.
        is_fetching = any(sequence.request.is_background for sequence in self._fetching)
        return self._may_have_idle_work and not is_fetching

    def _made(self, requests: Seq[tuple[Request, Listener]], now_s: float) -> list[Sequence]:
        sequences = [self._sequence(request, listener, now_s) for request, listener in requests]
        self._num_open += len(sequences)
        if self._tiers is not None:
            for sequence in sequences:
                if wanted := sequence.in_tiers(self._store, self._tiers, self._runner):
                    self._fetching.add(sequence)
                    self._tiers.fetch(wanted, partial(self._fetched, sequence))
        return sequences

    def _sequence(self, request: Request, listener: Listener, now_s: float) -> Sequence:
        self._arrivals += 1
        if self._runner.sink is not None and request.mode == "block":
            blocks = (self._runner.sink, *request.blocks)
            request = replace(request, blocks=blocks, has_sink=True)
        stream = TextStream(self._runner.tokenizer, request.stop)
        return Sequence(request, listener, self._arrivals, now_s, stream)

    def _fetched(self, sequence: Sequence, entries: list[Entry]) -> None:
        """What a tier had is in the store, held until the request holds it itself."""
        with self.wake:
            if sequence not in self._fetching:  # it has ended
                self._store.release_all(entries)
                return
            self._fetching.discard(sequence)
            sequence.fetched = entries
            self._ring()

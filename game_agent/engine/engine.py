"""The step loop: admit, select, compute, stream, until every request has its one end."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
from torch import Tensor

from game_agent.blocks.block import Block, block_key, chain_keys
from game_agent.blocks.store import BlockStore, Entry, NeverFits
from game_agent.blocks.tiers import Wanted, open_tiers
from game_agent.clock import Clock, SystemClock
from game_agent.config import EngineSettings
from game_agent.engine import reply
from game_agent.engine.contextual import ContextualCache
from game_agent.engine.draw import choose, draw_tokens, take_rows
from game_agent.engine.grammar import GrammarCompiler
from game_agent.engine.handle import Handle
from game_agent.engine.idle import IdleSource, first_blocks
from game_agent.engine.pace import Pace
from game_agent.engine.placement import Placement
from game_agent.engine.refresh import RefreshQueue
from game_agent.engine.request import (
    Completion,
    FinishReason,
    Listener,
    Mode,
    Request,
    check_request,
)
from game_agent.engine.runs import step_runs
from game_agent.engine.scheduler import admission_order, select
from game_agent.engine.sequence import Chunk, Sequence
from game_agent.engine.timers import Timer, Timers
from game_agent.engine.waiter import Waiter
from game_agent.errors import GameAgentError, Overloaded, TooLarge, Unavailable
from game_agent.metrics import EngineMetrics
from game_agent.model.planner import build_step
from game_agent.model.runner import ModelRunner
from game_agent.text.stream import TextStream
from game_agent_kernels import PAGE_TOKENS

log = logging.getLogger(__name__)


class Engine:
    """Runs requests together on one model, in a thread of its own that starts when first needed.

    Every submitted request ends in exactly one ``on_done`` or ``on_error`` of its listener.
    """

    def __init__(
        self,
        runner: ModelRunner,
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.runner = runner
        self.settings = settings or EngineSettings()
        self.store = BlockStore(runner.pool)
        self.grammars = GrammarCompiler(runner)
        self.metrics = EngineMetrics()
        self._clock = clock or SystemClock()
        self._wake = threading.Condition()
        self._inbox: list[Sequence] = []
        self._endings: list[tuple[Sequence, FinishReason]] = []
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._num_open = 0
        self._arrivals = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._idle_source: IdleSource | None = None
        self._may_have_idle_work = False
        self._refreshes = RefreshQueue()
        self._timers = Timers()
        self._pace = Pace()
        cache = self.settings.kv_cache
        self.tiers = None if cache is None else open_tiers(self.store, cache, runner.digest)
        self._fetching: set[Sequence] = set()

    # Called from any thread

    def submit(self, request: Request, listener: Listener) -> Handle:
        """Queue one request. Raises what :meth:`submit_all` raises."""
        return self.submit_all([(request, listener)])[0]

    def submit_all(self, requests: Seq[tuple[Request, Listener]]) -> list[Handle]:
        """Queue requests so that the next step sees all of them.

        Raises :class:`TooLarge` (longer than the context), :class:`Overloaded` (too many wait) or
        :class:`Unavailable` (closed); then none is queued.
        """
        now = self._clock.now_s()
        for request, _ in requests:
            check_request(
                request,
                self.runner.max_context_tokens,
                self.runner.pool.num_pages * PAGE_TOKENS,
                self.runner.vocab_size,
            )
        with self._wake:
            if self._closed:
                raise Unavailable("the engine is closed")
            if self._num_open + len(requests) > self.settings.max_waiting:
                raise Overloaded(f"{self._num_open} requests wait already", retry_after_ms=1000)
            sequences = [self._sequence(r, listener, now) for r, listener in requests]
            # They wait until what a tier has of them is back in the store.
            fetches = [(sequence, self._in_tiers(sequence)) for sequence in sequences]
            self._fetching.update(sequence for sequence, wanted in fetches if wanted)
            self._inbox += sequences
            self._num_open += len(sequences)
            self._start()
            self._wake.notify()
            for sequence, wanted in fetches:
                if self.tiers is not None and wanted:
                    self.tiers.fetch(wanted, partial(self._fetched, sequence))
        return [Handle(partial(self._end, sequence)) for sequence in sequences]

    def logits(
        self,
        blocks: Seq[Seq[int]],
        event: Seq[int],
        mode: Mode = "block",
        contextual: ContextualCache | None = None,
        placement: Placement = "prompt",
    ) -> Tensor:
        """Next-token logits [len(event), vocab] float32 of every event token, on the CPU.

        blocks: token ids of each block; event: token ids. The blocks stay in the store, and in
        ``contextual``, which that mode needs.
        """
        made = tuple(Block(np.array(ids, np.int32)) for ids in blocks)
        request = Request(
            made,
            np.array(event, np.int32),
            mode=mode,
            max_tokens=0,
            score=True,
            contextual=contextual,
            placement=placement,
        )
        completion = self.run([request])[0]
        assert completion.logits is not None
        return completion.logits

    def run(self, requests: Seq[Request]) -> list[Completion]:
        """Submit together, wait for all. Raises the first request's error, if one failed."""
        waiters = [Waiter() for _ in requests]
        self.submit_all(list(zip(requests, waiters, strict=True)))
        return [waiter.wait() for waiter in waiters]

    @property
    def has_sink(self) -> bool:
        """Whether the model's sink, if it has one, is encoded already."""
        sink = self.runner.sink
        return sink is not None and chain_keys(self.runner.digest, [sink])[0] in self.store

    def set_idle_source(self, source: IdleSource) -> None:
        """Whom to ask for blocks to encode while nobody waits for an answer."""
        self._idle_source = source

    def poke(self) -> None:
        """The idle source has something new."""
        with self._wake:
            if not self._closed:
                self._may_have_idle_work = True
                self._start()
                self._wake.notify()

    def call_at(self, when_s: float, call: Callable[[], None]) -> Timer:
        """Have ``call`` made in the engine's thread at ``when_s``, or one step later."""
        with self._wake:
            self._start()
            self._wake.notify()
            return self._timers.add(when_s, call)

    def close(self) -> None:
        """Stop; what is still open ends as ``cancelled``. May be called again."""
        atexit.unregister(self.close)
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self.tiers is not None:
            self.tiers.close()

    def _sequence(self, request: Request, listener: Listener, now_s: float) -> Sequence:
        self._arrivals += 1
        if self.runner.sink is not None and request.mode == "block":
            blocks = (self.runner.sink, *request.blocks)
            request = replace(request, blocks=blocks, has_sink=True)
        stream = TextStream(self.runner.tokenizer, request.stop)
        return Sequence(request, listener, self._arrivals, now_s, stream)

    def _in_tiers(self, sequence: Sequence) -> list[Wanted]:
        return sequence.in_tiers(self.store, self.tiers, self.runner) if self.tiers else []

    def _fetched(self, sequence: Sequence, entries: list[Entry]) -> None:
        """What a tier had is in the store, held until the request holds it itself."""
        with self._wake:
            if sequence not in self._fetching:  # it has ended
                self.store.release_all(entries)
                return
            self._fetching.discard(sequence)
            sequence.fetched = entries
            self._wake.notify()

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        with self._wake:
            self._endings.append((sequence, reason))
            self._wake.notify()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
            self._thread.start()
            # A daemon thread that the interpreter cuts off inside compiled code ends the process.
            atexit.register(self.close)

    # The engine's thread

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self._closed or self._has_work()):
                    due_s = self._timers.next_s()
                    self._wake.wait(None if due_s is None else due_s - self._clock.now_s())
                if self._closed:
                    break
            try:
                self.step()
            except Exception as error:
                # A mistake of ours; but nobody may wait for ever for an answer.
                log.exception("the step loop failed")
                for sequence in [*self._running, *self._waiting]:
                    self._fail(sequence, GameAgentError(f"the engine failed: {error}"))
        for sequence in [*self._running, *self._waiting, *self._inbox]:
            self._finish(sequence, "cancelled")

    def _has_work(self) -> bool:
        due_s = self._timers.next_s()
        is_due = due_s is not None and due_s <= self._clock.now_s()
        new = self._inbox or self._endings or self._may_have_idle_work
        return bool(new or self._running or self._ready() or is_due)

    def _ready(self) -> list[Sequence]:
        """Waiting requests of which nothing is being fetched."""
        return [sequence for sequence in self._waiting if sequence not in self._fetching]

    def step(self) -> None:
        """Take in what is new, compute one forward pass, hand out what it gave."""
        self._take_in()
        if all(each.request.is_idle for each in [*self._running, *self._ready()]):
            self._take_idle_work()
        self._admit()
        chunks = select(self._running, self.settings.step_tokens, self.settings.idle_tokens)
        if not chunks:
            return
        try:
            logits = self._forward(chunks)
        except Exception as error:
            # Whatever failed, these requests get their end and the others go on.
            log.exception("a step of %d chunks failed", len(chunks))
            for sequence in {chunk.sequence for chunk in chunks}:
                self._fail(sequence, GameAgentError(f"the step failed: {error}"))
            return
        self._advance(chunks, logits)

    def _take_in(self) -> None:
        now = self._clock.now_s()
        with self._wake:
            due = self._timers.take_due(now)
        for call in due:
            reply.tell(call)
        with self._wake:
            inbox, self._inbox = self._inbox, []
            endings, self._endings = self._endings, []
        self._waiting.extend(inbox)
        for sequence, reason in endings:
            if sequence in self._running or sequence in self._waiting:
                self._finish(sequence, reason)
        for sequence in [*self._running, *self._waiting]:
            deadline = sequence.request.deadline_s
            if deadline is not None and now >= deadline:
                self._finish(sequence, "deadline")

    def _take_idle_work(self) -> None:
        """With nothing else to do, make some blocks ready that will be asked for.

        They are asked for one step at a time, so that what has been superseded by then is never
        encoded, and a question waits for one short step at most.
        """
        with self._wake:
            wanted, self._may_have_idle_work = self._may_have_idle_work, False
        if wanted and not (self._take_new_blocks() or self._running or self._ready()):
            refresh = self._refreshes.take(self.store, self.settings.idle_tokens)
            if refresh is not None:
                self._take_idle_request(refresh)

    def _take_new_blocks(self) -> bool:
        """Begin what the idle source has; whether there was something."""
        if self._idle_source is None:
            return False
        missing = (
            block
            for block in self._idle_source()
            if block_key(self.runner.digest, block) not in self.store
        )
        blocks, has_more = first_blocks(missing, self.settings.idle_tokens)
        if has_more:
            with self._wake:
                self._may_have_idle_work = True  # the rest, in the next idle step
        if blocks:
            event = np.empty(0, np.int32)
            self._take_idle_request(Request(tuple(blocks), event, max_tokens=0, priority=-1))
        return bool(blocks)

    def _take_idle_request(self, request: Request) -> None:
        with self._wake:
            self._num_open += 1
        self._waiting.append(self._sequence(request, Waiter(), self._clock.now_s()))

    def _admit(self) -> None:
        """Move waiting requests to running, in order, while there is room.

        What nobody waits for leaves room for questions, and what is for idle time gives it back.
        """
        for sequence in admission_order(self._ready(), self._running):
            if len(self._running) >= self.settings.max_running and not self._drop_idle():
                return
            if not self._has_time_for(sequence):
                continue
            try:
                sequence.admit(self.store, self.runner, self._clock.now_s())
            except MemoryError as error:
                if not isinstance(error, NeverFits):
                    if self._drop_idle():
                        self._admit()
                        return
                    if self._running or self._let_go():
                        return  # those will give back theirs
                self._fail(sequence, TooLarge(f"the prompt does not fit the KV memory: {error}"))
                continue
            self._waiting.remove(sequence)
            self._running.append(sequence)
            for other in self._waiting:
                other.num_overtaken += other.arrival < sequence.arrival
            if not sequence.num_pending and not sequence.unfilled():
                self._finish(sequence, "stop")
            elif self._is_hopeless(sequence):
                self._finish(sequence, "deadline")
            else:
                self._grow(sequence, partial(reply.force, sequence))

    def _has_time_for(self, sequence: Sequence) -> bool:
        """Of those that nobody waits for one runs at a time; those for idle time begin alone."""
        if sequence.request.is_idle:
            return not self._running
        if not sequence.request.is_background:
            return True
        return all(s.request.is_idle or not s.request.is_background for s in self._running)

    def _drop_idle(self) -> bool:
        """End what runs for idle time only, to make room; whether there was something."""
        idle = [sequence for sequence in self._running if sequence.request.is_idle]
        for sequence in idle:
            self._finish(sequence, "cancelled")
        return bool(idle)

    def _let_go(self) -> bool:
        """Whether fetched blocks took room: give back those that are not in use yet."""
        with self._wake:
            holders = [each for each in self._waiting if each.fetched]
            for each in holders:
                each.release_fetched(self.store)
            return bool(holders or self._fetching)

    def _is_hopeless(self, sequence: Sequence) -> bool:
        """Whether not even the first token can come before the deadline, at the best pace."""
        deadline_s = sequence.request.deadline_s
        if deadline_s is None:
            return False
        needed_s = self._pace.at_least_s(sequence.num_missing_tokens)
        return self._clock.now_s() + needed_s > deadline_s

    def _forward(self, chunks: Seq[Chunk]) -> Tensor:
        taken: dict[int, int] = {}
        runs = [
            run
            for sequence, group in groupby(chunks, key=lambda chunk: chunk.sequence)
            for run in step_runs(sequence, list(group), taken, self.runner.rope)
        ]
        num_tokens = sum(len(run.tokens) for run in runs)
        self.metrics.count_step(num_tokens)
        begun_s = self._clock.now_s()
        logits = self.runner.forward(build_step(runs))
        self._pace.record(num_tokens, self._clock.now_s() - begun_s)
        return logits

    def _advance(self, chunks: Seq[Chunk], logits: Tensor) -> None:
        """Publish what is complete, draw next tokens, end what is done."""
        drawing = take_rows(chunks, logits)
        tokens = draw_tokens(logits, drawing)
        now = self._clock.now_s()
        for (sequence, _), token in zip(drawing, tokens, strict=True):
            if isinstance(token, GameAgentError):
                self._fail(sequence, token)
                continue
            if sequence.first_token_s is None:
                sequence.first_token_s = now
            self._grow(sequence, partial(reply.push, sequence, token, self.runner.stop_token_ids))
        for sequence in list(self._running):
            self._end_without_reply(sequence)

    def _grow(self, sequence: Sequence, grow: Callable[[], FinishReason | None]) -> None:
        """Let a reply grow; end it where that says so."""
        try:
            reason = grow()
        except GameAgentError as error:
            self._fail(sequence, error)
            return
        if reason is not None:
            self._finish(sequence, reason)

    def _end_without_reply(self, sequence: Sequence) -> None:
        """End what was scored, or only made ready: nothing is left to compute, nothing is drawn."""
        if sequence.num_pending or sequence.decoding or sequence.unfilled():
            return
        if sequence.scoring is not None:
            if not sequence.scoring.is_complete:
                return
            sequence.choice = choose(sequence)
            if sequence.choice is None:
                message = "no option could be chosen: the model's logits are no numbers"
                self._fail(sequence, GameAgentError(message))
                return
        self._finish(sequence, "stop")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if self.tiers is not None:
            self.tiers.used(sequence.entries, sequence.encoded)
        self._remove(sequence)
        self._refresh_later(sequence.request)
        reply.flush(sequence)
        completion = reply.completion(sequence, reason, self._clock.now_s())
        self.metrics.count_request(completion.finish_reason, completion.usage)
        reply.tell(sequence.listener.on_done, completion)

    def _refresh_later(self, request: Request) -> None:
        """What ``request`` left may be approximate, or there may be more that is."""
        if request.contextual is None or not self.settings.refresh_when_idle:
            return
        self._refreshes.add(request.contextual)
        with self._wake:
            self._may_have_idle_work = True

    def _fail(self, sequence: Sequence, error: GameAgentError) -> None:
        self._remove(sequence)
        reply.tell(sequence.listener.on_error, error)

    def _remove(self, sequence: Sequence) -> None:
        sequence.release(self.store)
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        with self._wake:
            self._fetching.discard(sequence)
            self._num_open -= 1

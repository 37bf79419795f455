"""The step loop: admit, select, compute, stream, until every request has its one end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from itertools import groupby

from torch import Tensor

from game_agent.blocks.store import BlockStore, NeverFits
from game_agent.blocks.tiers import Tiers
from game_agent.clock import Clock
from game_agent.config import EngineSettings
from game_agent.engine import reply
from game_agent.engine.burst import MAX_S, burst_draws, burst_slots, burst_tokens
from game_agent.engine.draw import choose, draw_tokens, drawn, take, take_rows
from game_agent.engine.idle import NewBlocks
from game_agent.engine.intake import Intake
from game_agent.engine.pace import Pace
from game_agent.engine.refresh import RefreshQueue
from game_agent.engine.request import FinishReason, Request
from game_agent.engine.runs import step_runs
from game_agent.engine.scheduler import admission_order, select
from game_agent.engine.sequence import Chunk, Sequence
from game_agent.errors import GameAgentError, TooLarge
from game_agent.metrics import EngineMetrics
from game_agent.model.planner import Step, build_step
from game_agent.model.runner import ModelRunner

log = logging.getLogger(__name__)


class StepLoop:
    """What the engine's thread does. Only that thread touches what is here."""

    def __init__(
        self,
        runner: ModelRunner,
        settings: EngineSettings,
        store: BlockStore,
        tiers: Tiers | None,
        intake: Intake,
        metrics: EngineMetrics,
        clock: Clock,
    ) -> None:
        self._runner = runner
        self._settings = settings
        self._store = store
        self._tiers = tiers
        self._intake = intake
        self._metrics = metrics
        self._clock = clock
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.new_blocks = NewBlocks(store, runner.digest, settings.idle_tokens)
        self._refreshes = RefreshQueue()
        self._pace = Pace()

    def run(self) -> None:
        """Take steps until the intake is closed; what is open then ends as ``cancelled``."""
        while self._intake.wait(self.has_work):
            try:
                self.step()
            except Exception as error:
                # A mistake of ours; but nobody may wait for ever for an answer.
                log.exception("the step loop failed")
                for sequence in [*self.running, *self.waiting]:
                    self._fail(sequence, GameAgentError(f"the engine failed: {error}"))
        new, _ = self._intake.take()
        for sequence in [*self.running, *self.waiting, *new]:
            self.finish(sequence, "cancelled")

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._intake.has_news() or self.running or self._ready())

    def step(self) -> None:
        """Take in what is new, compute one forward pass, hand out what it gave."""
        self._take_in()
        if all(each.request.is_idle for each in [*self.running, *self._ready()]):
            self._take_idle_work()
        self._admit()
        chunks = select(self.running, self._settings.step_tokens, self._settings.idle_tokens)
        if not chunks:
            return
        count = burst_tokens(chunks) if self._runner.can_burst else 0
        try:
            found = self._burst(chunks, count) if count else self._forward(chunks)
        except Exception as error:
            # Whatever failed, these requests get their end and the others go on.
            log.exception("a step of %d chunks failed", len(chunks))
            for sequence in {chunk.sequence for chunk in chunks}:
                self._fail(sequence, GameAgentError(f"the step failed: {error}"))
            return
        if isinstance(found, Tensor):
            self._advance(chunks, found)
        else:
            self._advance_burst(chunks, found)

    def _ready(self) -> list[Sequence]:
        """Waiting requests of which nothing is being fetched."""
        return [each for each in self.waiting if not self._intake.is_fetching(each)]

    def _take_in(self) -> None:
        now = self._clock.now_s()
        for call in self._intake.take_due(now):
            reply.tell(call)
        new, endings = self._intake.take()
        self.waiting.extend(new)
        for sequence, reason in endings:
            if sequence in self.running or sequence in self.waiting:
                self.finish(sequence, reason)
        for sequence in [*self.running, *self.waiting]:
            deadline = sequence.request.deadline_s
            if deadline is not None and now >= deadline:
                self.finish(sequence, "deadline")

    def _take_idle_work(self) -> None:
        """With nothing else to do, make some blocks ready that will be asked for.

        They are asked for one step at a time, so that what has been superseded by then is never
        encoded, and a question waits for one short step at most.
        """
        if not self._intake.take_poke():
            return
        request, has_more = self.new_blocks.take()
        if has_more:
            self._intake.poke()  # the rest, in the next idle step
        if request is None and not (self.running or self._ready()):
            request = self._refreshes.take(self._store, self._settings.idle_tokens)
        if request is not None:
            self.waiting.append(self._intake.own(request))

    def _admit(self) -> None:
        """Move waiting requests to running, in order, while there is room.

        What nobody waits for leaves room for questions, and what is for idle time gives it back.
        """
        if not self.waiting:
            return
        for sequence in admission_order(self._ready(), self.running):
            if len(self.running) >= self._settings.max_running and not self._drop_idle():
                return
            if not self._has_time_for(sequence):
                continue
            try:
                sequence.admit(self._store, self._runner, self._clock.now_s())
            except MemoryError as error:
                if not isinstance(error, NeverFits):
                    if self._drop_idle():
                        self._admit()
                        return
                    if self.running or self._let_go():
                        return  # those will give back theirs
                self._fail(sequence, TooLarge(f"the prompt does not fit the KV memory: {error}"))
                continue
            self.waiting.remove(sequence)
            self.running.append(sequence)
            for other in self.waiting:
                other.num_overtaken += other.arrival < sequence.arrival
            if not sequence.num_pending and not sequence.unfilled():
                self.finish(sequence, "stop")
            elif self._is_hopeless(sequence):
                self.finish(sequence, "deadline")
            else:
                self._grow(sequence, partial(reply.force, sequence))

    def _has_time_for(self, sequence: Sequence) -> bool:
        """Of those that nobody waits for one runs at a time; those for idle time begin alone."""
        if sequence.request.is_idle:
            return not self.running
        if not sequence.request.is_background:
            return True
        return all(s.request.is_idle or not s.request.is_background for s in self.running)

    def _drop_idle(self) -> bool:
        """End what runs for idle time only, to make room; whether there was something."""
        idle = [sequence for sequence in self.running if sequence.request.is_idle]
        for sequence in idle:
            self.finish(sequence, "cancelled")
        return bool(idle)

    def _let_go(self) -> bool:
        """Whether fetched blocks took room: give back those that are not in use yet."""
        with self._intake.wake:
            holders = [each for each in self.waiting if each.fetched]
            for each in holders:
                each.release_fetched(self._store)
            return bool(holders or self._intake.num_fetching)

    def _is_hopeless(self, sequence: Sequence) -> bool:
        """Whether not even the first token can come before the deadline, at the best pace."""
        deadline_s = sequence.request.deadline_s
        if deadline_s is None:
            return False
        needed_s = self._pace.at_least_s(sequence.num_missing_tokens)
        return self._clock.now_s() + needed_s > deadline_s

    def _burst(self, chunks: Seq[Chunk], count: int) -> list[list[int]]:
        """The next tokens of all replies, up to ``count`` passes of one for each."""
        slots, draws = burst_slots(chunks, count), burst_draws(chunks, count)
        begun_s = self._clock.now_s()
        passes = self._runner.burst(self._build(chunks), slots, draws, self._intake.news, MAX_S)
        pass_s = (self._clock.now_s() - begun_s) / len(passes)
        for _ in passes:
            self._metrics.count_step(len(chunks))
            self._pace.record(len(chunks), pass_s)
        tokens: list[list[int]] = passes.tolist()
        return tokens

    def _advance_burst(self, chunks: Seq[Chunk], passes: list[list[int]]) -> None:
        """As :meth:`_advance`, pass by pass; who ends in one of them has no part in the next."""
        for tokens in passes:
            for chunk, token in zip(chunks, tokens, strict=True):
                sequence = chunk.sequence
                if sequence in self.running and not self._intake.is_ending(sequence):
                    sequence.num_computed += 1
                    take(sequence)
                    self._hand_out([(sequence, drawn(token))])

    def _build(self, chunks: Seq[Chunk]) -> Step:
        taken: dict[int, int] = {}
        return build_step(
            [
                run
                for sequence, group in groupby(chunks, key=lambda chunk: chunk.sequence)
                for run in step_runs(sequence, list(group), taken, self._runner.rope)
            ]
        )

    def _forward(self, chunks: Seq[Chunk]) -> Tensor:
        step = self._build(chunks)
        num_tokens = len(step.tokens)
        self._metrics.count_step(num_tokens)
        begun_s = self._clock.now_s()
        logits = self._runner.forward(step)
        self._pace.record(num_tokens, self._clock.now_s() - begun_s)
        return logits

    def _advance(self, chunks: Seq[Chunk], logits: Tensor) -> None:
        """Publish what is complete, draw next tokens, end what is done."""
        drawing = take_rows(chunks, logits)
        tokens = draw_tokens(self._runner.kernels.sample_rows, logits, drawing)
        self._hand_out([(s, token) for (s, _), token in zip(drawing, tokens, strict=True)])
        for sequence in list(self.running):
            self._end_without_reply(sequence)

    def _hand_out(self, drawings: Seq[tuple[Sequence, int | GameAgentError]]) -> None:
        """Let replies grow by their next tokens; end those of which none could be drawn."""
        now = self._clock.now_s()
        for sequence, token in drawings:
            if isinstance(token, GameAgentError):
                self._fail(sequence, token)
                continue
            if sequence.first_token_s is None:
                sequence.first_token_s = now
            self._grow(sequence, partial(reply.push, sequence, token, self._runner.stop_token_ids))

    def _grow(self, sequence: Sequence, grow: Callable[[], FinishReason | None]) -> None:
        """Let a reply grow; end it where that says so."""
        try:
            reason = grow()
        except GameAgentError as error:
            self._fail(sequence, error)
            return
        if reason is not None:
            self.finish(sequence, reason)

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
        self.finish(sequence, "stop")

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if self._tiers is not None:
            self._tiers.used(sequence.entries, sequence.encoded)
        self._remove(sequence)
        self._refresh_later(sequence.request)
        reply.flush(sequence)
        completion = reply.completion(sequence, reason, self._clock.now_s())
        self._metrics.count_request(completion.finish_reason, completion.usage)
        reply.tell(sequence.listener.on_done, completion)

    def _refresh_later(self, request: Request) -> None:
        """What ``request`` left may be approximate, or there may be more that is."""
        if request.contextual is None or not self._settings.refresh_when_idle:
            return
        self._refreshes.add(request.contextual)
        self._intake.poke()

    def _fail(self, sequence: Sequence, error: GameAgentError) -> None:
        self._remove(sequence)
        reply.tell(sequence.listener.on_error, error)

    def _remove(self, sequence: Sequence) -> None:
        sequence.release(self._store)
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._intake.forget(sequence)

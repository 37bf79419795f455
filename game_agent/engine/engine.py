"""The engine: requests in from any thread, each of which has its one end in the listener."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial

import numpy as np
from torch import Tensor

from game_agent.blocks.block import Block, chain_keys
from game_agent.blocks.store import BlockStore
from game_agent.blocks.tiers import open_tiers
from game_agent.clock import Clock, SystemClock
from game_agent.config import EngineSettings
from game_agent.engine.contextual import ContextualCache
from game_agent.engine.grammar import GrammarCompiler
from game_agent.engine.handle import Handle
from game_agent.engine.idle import IdleSource
from game_agent.engine.intake import Intake
from game_agent.engine.loop import StepLoop
from game_agent.engine.placement import Placement
from game_agent.engine.request import (
    Completion,
    Listener,
    Mode,
    Request,
    check_request,
)
from game_agent.engine.timers import Timer
from game_agent.engine.waiter import Waiter
from game_agent.metrics import EngineMetrics
from game_agent.model.runner import ModelRunner
from game_agent_kernels import PAGE_TOKENS


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
        cache = self.settings.kv_cache
        self.tiers = None if cache is None else open_tiers(self.store, cache, runner.digest)
        max_open = self.settings.max_waiting
        self._intake = Intake(runner, self.store, self.tiers, self._clock, max_open)
        self._loop = StepLoop(
            runner,
            self.settings,
            self.store,
            self.tiers,
            self._intake,
            self.metrics,
            self._clock,
        )
        self._thread: threading.Thread | None = None

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
        with self._intake.wake:
            sequences = self._intake.put(requests, now)
            self._start()
        return [Handle(partial(self._intake.end, sequence)) for sequence in sequences]

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
        self._loop.new_blocks.source = source

    def poke(self) -> None:
        """The idle source has something new."""
        with self._intake.wake:
            if self._intake.poke():
                self._start()

    def call_at(self, when_s: float, call: Callable[[], None]) -> Timer:
        """Have ``call`` made in the engine's thread at ``when_s``, or one step later."""
        with self._intake.wake:
            self._start()
            return self._intake.call_at(when_s, call)

    def step(self) -> None:
        """What the thread does again and again: one forward pass, and what belongs to it."""
        self._loop.step()

    def close(self) -> None:
        """Stop; what is still open ends as ``cancelled``. May be called again."""
        atexit.unregister(self.close)
        self._intake.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self.tiers is not None:
            self.tiers.close()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run, name="engine", daemon=True)
            self._thread.start()
            # A daemon thread that the interpreter cuts off inside compiled code ends the process.
            atexit.register(self.close)

"""Prompts of random blocks, and the decoder, pages and captured passes that they go through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from game_agent.blocks.pool import PagePool, pages_for
from game_agent.model.decoder import Decoder
from game_agent.model.graphs import DecoderGraphs, capture_on_cuda
from game_agent.model.planner import (
    Run,
    Step,
    build_step,
    frame_segments,
    own_segment,
    page_slots,
)
from game_agent_kernels import Segments

EVENT_TOKENS = 50
BLOCK_TOKENS = 128
# New tokens of one pass, as the engine's default.
STEP_TOKENS = 2048


@dataclass
class Bench:
    """A decoder, its pages, and its captured passes (None: every pass is eager)."""

    decoder: Decoder
    pool: PagePool
    graphs: DecoderGraphs | None = None

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def capture(self, progress: Callable[[int, int], None]) -> float:
        """Capture the graphs; seconds taken. Without a GPU a pass stands for its graph."""
        begun = time.perf_counter()
        capture = capture_on_cuda() if self.device.type == "cuda" else lambda run: run
        self.graphs = DecoderGraphs(self.decoder, self.pool, capture, progress=progress)
        return time.perf_counter() - begun

    def forward(self, step: Step) -> Tensor:
        logits = self.graphs.forward(step) if self.graphs is not None else None
        return self.decoder.forward(step, self.pool) if logits is None else logits

    @contextmanager
    def pages(self, *tokens: int) -> Iterator[list[np.ndarray]]:
        """Pages for frames of these lengths, given back at the end."""
        held = [self.pool.allocate(pages_for(n)) for n in tokens]
        try:
            yield held
        finally:
            for pages in held:
                self.pool.free(pages)

    def run(
        self,
        tokens: np.ndarray,
        pages: np.ndarray,
        first: int,
        context: Segments | None,
        wanted: int,
    ) -> Run:
        """Tokens from place ``first`` of a frame on, after ``context``."""
        last = first + len(tokens)
        own = own_segment(pages, 0, last, len(self.decoder.rope.inv_freq))
        segments = own if context is None else Segments.concat([context, own])
        return Run(tokens, first, page_slots(pages, first, last), segments, wanted)


class Prompt:
    """Random blocks in pages and an event after them."""

    def __init__(self, bench: Bench, context: int) -> None:
        self.bench = bench
        self.rng = np.random.default_rng(context)
        room = context - EVENT_TOKENS
        self.lengths = [min(BLOCK_TOKENS, room - at) for at in range(0, room, BLOCK_TOKENS)]
        self.origins = np.cumsum([0, *self.lengths]).astype(np.int64)
        self.tokens = self.ids(context)

    def ids(self, count: int) -> np.ndarray:
        vocab = self.bench.decoder.spec.vocab_size
        return self.rng.integers(0, vocab, count).astype(np.int32)

    def encode(self, blocks: list[np.ndarray], some: list[int]) -> list[Run]:
        """Runs that encode some blocks, with new text."""
        return [self.bench.run(self.ids(self.lengths[i]), blocks[i], 0, None, 0) for i in some]

    def context(self, blocks: list[np.ndarray]) -> Segments:
        """All blocks as segments of the event."""
        frames = list(zip(blocks, self.lengths, strict=True))
        distances = self.origins[-1] - self.origins[:-1]
        return frame_segments(frames, distances, self.bench.decoder.rope)

    def ask(self, blocks: list[np.ndarray], own: np.ndarray, changed: list[int]) -> float:
        """Milliseconds from the prompt to its first token on the host."""
        begun = time.perf_counter()
        event = self.tokens[-EVENT_TOKENS:]
        runs = self.encode(blocks, changed)
        runs.append(self.bench.run(event, own, 0, self.context(blocks), 1))
        int(self.bench.forward(build_step(runs))[-1].argmax())
        return (time.perf_counter() - begun) * 1e3

    def fill(self, blocks: list[np.ndarray]) -> None:
        """Encode all blocks, as many in a pass as the engine would."""
        per_pass = STEP_TOKENS // BLOCK_TOKENS
        for first in range(0, len(blocks), per_pass):
            some = list(range(first, min(first + per_pass, len(blocks))))
            self.bench.forward(build_step(self.encode(blocks, some)))

    def prefill(self, pages: np.ndarray) -> Tensor:
        """Logits [vocab] of the whole prompt under plain causal attention."""
        for first in range(0, len(self.tokens), STEP_TOKENS):
            tokens = self.tokens[first : first + STEP_TOKENS]
            done = first + len(tokens) == len(self.tokens)
            logits = self.bench.forward(
                build_step([self.bench.run(tokens, pages, first, None, int(done))])
            )
        return logits[0]

"""Whole forward passes as CUDA graphs: captured per size at start-up, replayed from one buffer.

A forward pass of a few rows is hundreds of small kernels, and launching them takes longer than
running them. A captured pass is launched at once, but its sizes and addresses are fixed: so a step
is padded to the next bucket, and all that describes it travels to a fixed place in one copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from game_agent.blocks.pool import PagePool
from game_agent.model.buckets import BUCKETS, Bucket, Places, choose, pad_step
from game_agent.model.decoder import Decoder, Inputs
from game_agent.model.planner import Run, Step, build_step, no_segments
from game_agent_kernels import PAGE_TOKENS, Plan
from game_agent_kernels.segment_attention.carry import carry_groups, carry_work
from game_agent_kernels.segment_attention.groups import MAX_GROUPS, ungrouped
from game_agent_kernels.segment_attention.worklist import (
    HEADER_WORDS,
    LAUNCH,
    Launch,
    WorkList,
    divide,
    num_processors,
    tiling_for,
)

Progress = Callable[[int, int], None]
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]

# Room for the description of a step: 32 MiB hold sixty thousand segments of a head dim of 128.
NUM_WORDS = 2**23
# More runs than these and row tiles for all tokens make a step too ragged for a bucket's grid.
MAX_RUNS = 64
# Of groups of runs: beyond these, every run reads for itself.
MAX_GROUP_TILES = 32
# What segments are taken to hold when the tiles of keys are sized.
MEAN_KEYS = 64.0


def capture_on_cuda() -> Capture:
    """How graphs are captured; all of them share the memory of what they compute in between."""
    memory = torch.cuda.graph_pool_handle()
    # One for all, since matrix products keep a work space for every stream that they have seen.
    side = torch.cuda.Stream()

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        # Compiles kernels and makes libraries take their work space, which no capture may do.
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the GPU: another model's engine, say.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=memory, stream=side, capture_error_mode=mode):
            result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    return capture


class DecoderGraphs:
    """Captured forward passes of one decoder over one page pool, of which they take a page."""

    def __init__(
        self,
        decoder: Decoder,
        pool: PagePool,
        capture: Capture,
        *,
        buckets: Sequence[Bucket] = BUCKETS,
        num_words: int = NUM_WORDS,
        progress: Progress | None = None,
    ) -> None:
        """Capture a graph for every bucket; ``progress`` hears (how many are done, of how many).

        Raises ``MemoryError`` when the pool has no page left for the keys of added rows.
        """
        self._rope = decoder.rope
        self._scratch_slot = int(pool.allocate(1)[0]) * PAGE_TOKENS
        device = decoder.device
        self._words = torch.zeros(num_words, dtype=torch.int32, device=device)
        self._staging = torch.zeros(num_words, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._graphs: dict[Bucket, _Graph] = {}
        self._before: Plan | None = None
        # The largest first: later ones find its memory to share.
        for done, bucket in enumerate(sorted(buckets, key=lambda b: -b.num_tokens), 1):
            graph = _Graph(bucket, decoder, pool, self._words)
            self._upload(graph, self._empty_step(bucket))
            graph.capture(capture)
            self._graphs[bucket] = graph
            if progress is not None:
                progress(done, len(buckets))

    def forward(self, step: Step) -> Tensor | None:
        """Logits as :meth:`Decoder.forward`'s, or None where no bucket takes ``step``.

        They may lie in the graph's own memory: read them before the next call.
        """
        if self._before is not None:
            carry_groups(self._before, step.plan)
        self._before = step.plan
        bucket = choose(tuple(self._graphs), step)
        if bucket is None:
            return None
        graph = self._graphs[bucket]
        if not self._upload(graph, pad_step(step, bucket, self._scratch_slot)):
            return None
        logits = graph.replay()
        if bucket.num_outputs < bucket.num_tokens or len(step.out_rows) == step.plan.num_rows:
            return logits[: len(step.out_rows)]
        return logits[torch.from_numpy(step.out_rows).to(logits.device, non_blocking=True)]

    def _empty_step(self, bucket: Bucket) -> Step:
        segments = no_segments(len(self._rope.inv_freq))
        slots = np.array([self._scratch_slot], np.int64)
        step = build_step([Run(np.zeros(1, np.int32), 0, slots, segments, num_logits=1)])
        return pad_step(step, bucket, self._scratch_slot)

    def _upload(self, graph: _Graph, step: Step) -> bool:
        """Bring a padded step to the device in one copy; False where it does not fit."""
        works = graph.works(step)
        if works is None or graph.places.num_words(works) > len(self._words):
            return False
        if self._copied is not None:
            # The copy of the step before may still read what is written now.
            self._copied.synchronize()
        cos, sin = self._rope.encoding(step.plan.row_positions)
        end = graph.places.write(self._staging.numpy(), step, cos, sin, works)
        self._words[:end].copy_(self._staging[:end], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return True


class _Graph:
    """One bucket: its places in the words, its tilings, and its captured pass."""

    replay: Callable[[], Tensor]

    def __init__(self, bucket: Bucket, decoder: Decoder, pool: PagePool, words: Tensor) -> None:
        half = len(decoder.rope.inv_freq)
        self.places = Places(bucket, half)
        self._decoder, self._pool = decoder, pool
        self._launches = [_launch(bucket.num_tokens, bucket.run_rows, decoder, words)]
        if bucket.num_outputs < bucket.num_tokens:
            out_words = words[HEADER_WORDS:]
            self._launches.append(_launch(bucket.num_outputs, 1, decoder, out_words))
        plans = [_fixed_plan(launch, half) for launch in self._launches]
        self._inputs = self._views(words, half, plans[0], plans[-1])
        # What the last step's plans were, and their work.
        self._before: list[tuple[Plan, WorkList]] = []

    def _views(self, words: Tensor, half: int, plan: Plan, out_plan: Plan) -> Inputs:
        at, angles = self.places, words.view(torch.float32)
        return Inputs(
            tokens=words[at.tokens].view(torch.int64),
            cos=angles[at.cos].view(-1, half),
            sin=angles[at.sin].view(-1, half),
            slots=words[at.slots].view(torch.int64),
            out_rows=words[at.out_rows].view(torch.int64),
            plan=plan,
            out_plan=out_plan,
        )

    def capture(self, capture: Capture) -> None:
        """Make ready for replays; the words must describe a step of this bucket."""
        self.replay = capture(lambda: self._decoder.compute(self._inputs, self._pool))

    def works(self, step: Step) -> list[WorkList] | None:
        """Work lists of the step's plans; None where one has more items than the graph's grid."""
        plans = (step.plan, step.out_plan)[: len(self._launches)]
        works = self._carried(plans)
        if works is None:
            works = [_divide(p, one) for p, one in zip(plans, self._launches, strict=True)]
        fitting = [work for work in works if work is not None]
        fits = len(fitting) == len(works)
        self._before = list(zip(plans, fitting, strict=True)) if fits else []
        return fitting if fits else None

    def _carried(self, plans: Sequence[Plan]) -> list[WorkList | None] | None:
        """The last step's work lists, where nothing has changed but that replies are longer."""
        if len(self._before) < len(plans):
            return None
        pairs = zip(self._before, plans, strict=True)
        works = [carry_work(work, before, plan) for (before, work), plan in pairs]
        return None if None in works else works


def _launch(rows: int, run_rows: int, decoder: Decoder, words: Tensor) -> Launch:
    """The largest work list of a captured pass over ``rows`` rows."""
    spec = decoder.spec
    tiling = tiling_for(
        run_rows,
        MEAN_KEYS,
        heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        dim=spec.head_dim,
        dtype=decoder.dtype,
        processors=num_processors(decoder.device),
    )
    row_tiles = min(rows, MAX_RUNS + -(-rows // tiling.rows))
    group_tiles = MAX_GROUPS * -(-rows // tiling.rows) if rows > 1 else 0
    num_items = row_tiles + min(group_tiles, MAX_GROUP_TILES) + tiling.wanted
    return Launch(
        words, tiling, num_items, num_items * tiling.rows, rotates=True, turns=rows > 1, merges=True
    )


def _divide(plan: Plan, launch: Launch) -> WorkList | None:
    """The work of ``plan``, with every run alone where groups of them are too many for the grid."""
    work = divide(plan, launch.tiling)
    if len(work.items) > launch.num_items:
        work = divide(plan, launch.tiling, ungrouped(plan))
    return work if len(work.items) <= launch.num_items else None


def _fixed_plan(launch: Launch, half: int) -> Plan:
    """A plan that stands for whatever tables its launch finds."""
    none = np.zeros(1, np.int32)
    plan = Plan(none, none, no_segments(half), np.empty(0, np.int32), np.empty(0, np.int64))
    plan.derived[LAUNCH] = launch
    return plan

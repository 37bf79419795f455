"""What the bookkeeping of a question costs, beside its forward pass: 300 blocks, in ms.

python bench/plan.py [--blocks 300] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.engine.runs import step_runs
from game_agent.engine.sequence import Chunk, Sequence
from game_agent.engine.waiter import Waiter
from game_agent.model.planner import Run, build_step, frame_segments, own_segment
from game_agent.model.runner import ModelRunner, load_runner
from game_agent.runtime import bundled_folder
from game_agent.text.stream import TextStream
from game_agent_kernels import Segments
from game_agent_kernels.segment_attention.carry import carry_groups, carry_work
from game_agent_kernels.segment_attention.worklist import divide, tiling_for

EVENT_TOKENS = 50
BLOCK_TOKENS = 27
REPEATS = 200
REPLIES = 32


def median_ms(work: Callable[[], object]) -> float:
    """Median of many calls after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


class Bookkeeping:
    """A prompt whose blocks are all in the store, and the work around its forward pass."""

    def __init__(self, runner: ModelRunner, num_blocks: int) -> None:
        self._engine = Engine(runner)
        rng = np.random.default_rng(0)

        def tokens(count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
            return rng.integers(5, runner.vocab_size, count).astype(np.int32)

        blocks = tuple(Block(tokens(BLOCK_TOKENS)) for _ in range(num_blocks))
        self._request = Request(blocks, tokens(EVENT_TOKENS), max_tokens=32)
        self._engine.run([self._request])
        self._engine.close()
        self._sequence = self._admitted()

    def _admitted(self) -> Sequence:
        runner = self._engine.runner
        sequence = Sequence(self._request, Waiter(), 0, 0.0, TextStream(runner.tokenizer))
        sequence.admit(self._engine.store, runner, 0.0)
        return sequence

    def admission(self) -> None:
        """Look every block up, hold it, reserve pages for the reply, give all back."""
        self._admitted().release(self._engine.store)

    def prefill_plan(self) -> None:
        """The plan of the event, its segment table built anew."""
        self._sequence.segments.clear()
        self._sequence.own_segments.clear()
        self._plan(EVENT_TOKENS)

    def decode_plan(self) -> None:
        """The plan of one more token, the segment table at hand."""
        sequence = self._sequence
        sequence.num_computed = EVENT_TOKENS
        sequence.tokens = [*sequence.tokens[:EVENT_TOKENS], 7]
        self._plan(1)
        sequence.num_computed = 0

    def _plan(self, num_tokens: int) -> None:
        sequence = self._sequence
        chunk = Chunk(sequence, None, num_tokens)
        build_step(step_runs(sequence, [chunk], {}, self._engine.runner.rope))


class GpuWork:
    """The work list that a GPU needs of replies of many characters in one world.

    In the shape of an 8B model: 32 heads, 8 of keys and values, of 128 dimensions, and a GPU of 132
    processors. Nothing of it runs on a GPU.
    """

    def __init__(self, runner: ModelRunner, num_replies: int) -> None:
        rope = runner.rope
        half = len(rope.inv_freq)
        world = [(np.arange(8 * i, 8 * i + 8, dtype=np.int32), 128) for i in range(64)]
        distances = np.arange(64, 0, -1) * 128
        own_pages = np.arange(4, dtype=np.int32)
        self._before, self._after = (
            build_step(
                [
                    Run(
                        tokens=np.zeros(1, np.int32),
                        position=60 + more,
                        slots=np.zeros(1, np.int64),
                        segments=Segments.concat(
                            [
                                frame_segments(world, distances + i, rope),
                                own_segment(512 + 4 * i + own_pages, 0, 61 + more, half),
                            ]
                        ),
                        num_logits=1,
                    )
                    for i in range(num_replies)
                ]
            ).plan
            for more in (0, 1)
        )
        self._tiling = tiling_for(
            num_replies,
            128.0,
            heads=32,
            kv_heads=8,
            dim=128,
            dtype=torch.bfloat16,
            processors=132,
        )
        self._work = divide(self._before, self._tiling)

    def anew(self) -> None:
        self._before.derived.clear()
        divide(self._before, self._tiling)

    def next_token(self) -> None:
        carry_groups(self._before, self._after)
        assert carry_work(self._work, self._before, self._after) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=str(bundled_folder()), help="checkpoint folder")
    parser.add_argument("--blocks", type=int, default=300)
    parser.add_argument("--out", default=None, help="write the table to this file as well")
    args = parser.parse_args()
    work = Bookkeeping(load_runner(args.model, kv_memory_bytes=2**28), args.blocks)
    gpu = GpuWork(load_runner(args.model, kv_memory_bytes=2**20), REPLIES)
    report = f"""{args.blocks} blocks of {BLOCK_TOKENS} tokens, all cached; medians of {REPEATS}.

| | ms |
|---|---:|
| lookup and admission | {median_ms(work.admission):.3f} |
| plan of the event | {median_ms(work.prefill_plan):.3f} |
| plan of one more token | {median_ms(work.decode_plan):.3f} |

Of {REPLIES} replies in one world of 8,192 tokens, in the shape of an 8B model on a GPU:

| | ms |
|---|---:|
| groups and work list | {median_ms(gpu.anew):.3f} |
| of one more token | {median_ms(gpu.next_token):.3f} |
"""
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# Bookkeeping\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()

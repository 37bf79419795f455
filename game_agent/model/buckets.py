"""Sizes that steps are padded to, so that captured forward passes can be used again.

Pure: a step goes in, a padded step or its words come out; no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from game_agent.model.planner import Step
from game_agent_kernels import Plan
from game_agent_kernels.segment_attention.groups import GROUPS, groups_of
from game_agent_kernels.segment_attention.worklist import HEADER_WORDS, WorkList

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bucket:
    """Sizes that a step is padded to.

    num_tokens, num_outputs: rows, and rows whose logits are computed
    run_rows: most rows of one run, or of all runs that read the same blocks: their attention is
        tiled by that
    """

    num_tokens: int
    num_outputs: int
    run_rows: int

    def takes(self, step: Step) -> bool:
        return (
            step.plan.num_rows <= self.num_tokens
            and len(step.out_rows) <= self.num_outputs
            and groups_of(step.plan).most_rows <= self.run_rows
        )


BUCKETS = (
    # For replies over worlds of their own. Four rows fit the smallest tile of most models.
    *(Bucket(n, n, min(n, 4)) for n in (1, 2, 4, 8, 16, 32, 64)),
    *(Bucket(n, min(n, 64), n) for n in (16, 32, 64, 128, 256, 512)),
)


def choose(buckets: Sequence[Bucket], step: Step) -> Bucket | None:
    """The smallest bucket that takes ``step``, or None."""
    fitting = [bucket for bucket in buckets if bucket.takes(step)]
    return min(fitting, key=lambda b: (b.num_tokens, b.run_rows), default=None)


def pad_step(step: Step, bucket: Bucket, scratch_slot: int) -> Step:
    """``step`` with rows added up to the bucket's sizes, which changes no result of its own.

    Added rows are a run that sees nothing; their keys and values go to ``scratch_slot``. Where all
    rows of the bucket are outputs, ``out_rows`` are all rows, and the step's own must be picked
    from the result.
    """
    missing = bucket.num_tokens - step.plan.num_rows
    plan = add_rows(step.plan, missing, scratch_slot)
    tokens = np.concatenate([step.tokens, np.zeros(missing, np.int64)])
    if bucket.num_outputs == bucket.num_tokens:
        return Step(tokens, plan, np.arange(bucket.num_tokens), plan)
    spare = bucket.num_outputs - len(step.out_rows)
    out_rows = np.concatenate([step.out_rows, np.zeros(spare, np.int64)])
    return Step(tokens, plan, out_rows, add_rows(step.out_plan, spare, scratch_slot))


def add_rows(plan: Plan, count: int, slot: int) -> Plan:
    """A plan with one more run, of ``count`` rows at position 0 without segments."""
    padded = Plan(
        run_rows=np.append(plan.run_rows, plan.run_rows[-1] + np.int32(count)),
        run_segments=np.append(plan.run_segments, plan.run_segments[-1]),
        segments=plan.segments,
        row_positions=np.append(plan.row_positions, np.zeros(count, np.int32)),
        row_slots=np.append(plan.row_slots, np.full(count, slot, np.int64)),
    )
    padded.derived[GROUPS] = groups_of(plan).with_run(count)
    return padded


class Places:
    """Where a bucket's arrays lie in the 32-bit words that describe a step.

    Both plans' headers come first, then the arrays of fixed size, then both plans' tables.
    tokens, slots: [num_tokens] int64; out_rows: [num_outputs] int64; cos, sin: [num_tokens, half]
    float32. Each begins at a multiple of 16 bytes, for wide loads.
    """

    def __init__(self, bucket: Bucket, half: int) -> None:
        tokens, outputs = bucket.num_tokens, bucket.num_outputs
        sizes = (2 * tokens, 2 * tokens, 2 * outputs, tokens * half, tokens * half)
        starts = [*accumulate((-(-n // 4) * 4 for n in sizes), initial=2 * HEADER_WORDS)]
        self.tokens, self.slots, self.out_rows, self.cos, self.sin = (
            slice(start, start + size) for start, size in zip(starts, sizes, strict=False)
        )
        self.tables = starts[-1]

    def num_words(self, works: Sequence[WorkList]) -> int:
        """Words that a step with these work lists takes."""
        return self.tables + sum(work.num_words for work in works)

    def write(
        self, words: Ints, step: Step, cos: Floats, sin: Floats, works: Sequence[WorkList]
    ) -> int:
        """Lay out a padded step, its rows' angles and work lists; returns the words written."""
        words[self.tokens] = step.tokens.view(np.int32)
        words[self.slots] = step.plan.row_slots.view(np.int32)
        words[self.out_rows] = step.out_rows.view(np.int32)
        words[self.cos] = cos.reshape(-1).view(np.int32)
        words[self.sin] = sin.reshape(-1).view(np.int32)
        end = self.tables
        for i, work in enumerate(works):
            end = work.write(words, i * HEADER_WORDS, end)
        return end

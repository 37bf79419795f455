"""From runs to the arrays of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from game_agent.model.rope import Rope
from game_agent_kernels import FAR_PAST, PAGE_TOKENS, Plan, Segments
from game_agent_kernels.plan import starts

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Run:
    """Tokens of one frame to compute in this pass.

    tokens:   [n] token ids
    position: frame position of the first
    slots:    [n] where each row's key and value go
    segments: what the rows attend to, their own frame's keys (this pass's included) among them
    num_logits: the next-token logits of so many last rows are wanted
    """

    tokens: Ints
    position: int
    slots: npt.NDArray[np.int64]
    segments: Segments
    num_logits: int = 0


@dataclass(frozen=True)
class Step:
    """One forward pass: packed tokens [T], their plan, and what the last layer has to finish.

    Only ``out_rows`` go through the last layer's attention and MLP (``out_plan`` is the plan of
    those rows alone); of all others only keys and values are wanted there.
    """

    tokens: npt.NDArray[np.int64]
    plan: Plan
    out_rows: npt.NDArray[np.int64]
    out_plan: Plan


def build_step(runs: Sequence[Run]) -> Step:
    """Pack runs (at least one, each with at least one token) into one step."""
    if len(runs) == 1:
        return _step_of(runs[0])
    counts = np.array([len(run.tokens) for run in runs])
    run_rows = starts(counts)
    positions = np.concatenate(
        [np.arange(run.position, run.position + len(run.tokens), dtype=np.int32) for run in runs]
    )
    slots = np.concatenate([run.slots for run in runs])
    plan = Plan(
        run_rows=run_rows,
        run_segments=starts([run.segments.num_segments for run in runs]),
        segments=Segments.concat([run.segments for run in runs]),
        row_positions=positions,
        row_slots=slots,
    )
    tokens = np.concatenate([run.tokens for run in runs]).astype(np.int64)
    return Step(tokens, plan, *_outputs(runs, plan))


def _step_of(run: Run) -> Step:
    """A step of one run, such as a token of a reply: what needs no packing."""
    num_rows, num_segments = len(run.tokens), run.segments.num_segments
    plan = Plan(
        run_rows=np.array([0, num_rows], np.int32),
        run_segments=np.array([0, num_segments], np.int32),
        segments=run.segments,
        row_positions=np.arange(run.position, run.position + num_rows, dtype=np.int32),
        row_slots=run.slots,
    )
    tokens = run.tokens.astype(np.int64)
    if run.num_logits == num_rows:
        return Step(tokens, plan, np.arange(num_rows), plan)
    return Step(tokens, plan, *_outputs([run], plan))


def _outputs(runs: Sequence[Run], plan: Plan) -> tuple[npt.NDArray[np.int64], Plan]:
    """The rows whose logits are wanted, and the plan of the runs that hold them."""
    rows: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    wanted: list[Run] = []
    for run, end in zip(runs, plan.run_rows[1:], strict=True):
        if run.num_logits:
            rows.append(np.arange(end - run.num_logits, end, dtype=np.int64))
            wanted.append(run)
    out_rows = np.concatenate(rows)
    if len(wanted) == len(runs) and len(out_rows) == plan.num_rows:
        return out_rows, plan
    half = plan.segments.cos.shape[1]
    segments = [run.segments for run in wanted] or [no_segments(half)]
    out_plan = Plan(
        run_rows=starts([len(r) for r in rows[1:]]),
        run_segments=starts([run.segments.num_segments for run in wanted]),
        segments=Segments.concat(segments),
        row_positions=plan.row_positions[out_rows],
        row_slots=plan.row_slots[out_rows],
    )
    return out_rows, out_plan


def frame_segments(
    frames: Sequence[tuple[Ints, int]],
    distances: npt.NDArray[np.int64],
    rope: Rope,
    positions: npt.NDArray[np.int32] | None = None,
) -> Segments:
    """Segments for whole frames, given as (pages, number of keys), at their distances Δ [S].

    ``positions`` [S] places them in the run's own frame (full mode); None: all keys are visible.
    """
    cos, sin = rope.rotation(distances)
    count = len(frames)
    return Segments(
        page_starts=starts([len(pages) for pages, _ in frames]),
        pages=np.concatenate([pages for pages, _ in frames]) if count else np.empty(0, np.int32),
        lengths=np.array([length for _, length in frames], np.int32),
        positions=np.full(count, FAR_PAST, np.int32) if positions is None else positions,
        distances=distances.astype(np.int32),
        cos=cos,
        sin=sin,
    )


def without_positions(run: Run) -> Run:
    """The same run, with every segment that its first row sees whole at no position of its frame.

    Kernels attend to pages that several runs see whole for all of them at once, which takes one
    position for all: runs of different frames have to agree on it.
    """
    segments = run.segments
    is_whole = run.position + 1 - segments.positions >= segments.lengths
    positions = np.where(is_whole, np.int32(FAR_PAST), segments.positions)
    return replace(run, segments=replace(segments, positions=positions))


def own_segment(pages: Ints, position: int, length: int, half: int) -> Segments:
    """The one segment of a run's own frame: ``length`` keys from ``position`` on, Δ = 0."""
    used = pages[: -(-length // PAGE_TOKENS)]
    return Segments(
        page_starts=np.array([0, len(used)], np.int32),
        pages=used,
        lengths=np.array([length], np.int32),
        positions=np.array([position], np.int32),
        distances=np.zeros(1, np.int32),
        cos=np.ones((1, half), np.float32),
        sin=np.zeros((1, half), np.float32),
    )


def no_segments(half: int) -> Segments:
    """An empty table, for angles of ``half`` columns."""
    empty = np.empty(0, np.int32)
    angles = np.empty((0, half), np.float32)
    return Segments(np.zeros(1, np.int32), empty, empty, empty, empty, angles, angles)


def page_slots(pages: Ints, first: int, last: int) -> npt.NDArray[np.int64]:
    """Slots of places [first, last) of a frame held in ``pages``."""
    places = np.arange(first, last, dtype=np.int64)
    return pages[places // PAGE_TOKENS].astype(np.int64) * PAGE_TOKENS + places % PAGE_TOKENS

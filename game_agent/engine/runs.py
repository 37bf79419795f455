"""What a sequence computes in a step, as runs: frames, distances, and who sees whom."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

from game_agent.blocks.pool import pages_for
from game_agent.engine.placement import origins as placed_origins
from game_agent.engine.sequence import Chunk, Sequence
from game_agent.model.planner import (
    Run,
    frame_segments,
    no_segments,
    own_segment,
    page_slots,
    without_positions,
)
from game_agent.model.rope import Rope
from game_agent_kernels import Segments


def step_runs(
    sequence: Sequence, chunks: Seq[Chunk], taken: dict[int, int], rope: Rope
) -> list[Run]:
    """This step's runs for ``chunks`` of ``sequence``, in order.

    ``taken`` counts what earlier chunks of this step do to each entry (by ``id``), and is
    brought up to date.
    """
    runs: list[Run] = []
    shift_before = 0
    for chunk in chunks:
        if chunk.option is not None:
            runs.append(_option_run(sequence, chunk.option, chunk.num_tokens, rope))
            continue
        shift = 0 if chunk.block is None else int(sequence.shifts[chunk.block])
        run = (
            _own_run(sequence, chunk.num_tokens, rope)
            if chunk.block is None
            else _block_run(sequence, chunk.block, chunk.num_tokens, taken, rope)
        )
        follows = runs and runs[-1].position + len(runs[-1].tokens) == run.position
        if follows and shift == shift_before and not sequence.is_framed:
            run = _joined(runs.pop(), run)
        shift_before = shift
        runs.append(run)
    return runs if sequence.draft is None else [without_positions(run) for run in runs]


def _block_run(
    sequence: Sequence, index: int, num_tokens: int, taken: dict[int, int], rope: Rope
) -> Run:
    """Encode part of a block: alone in its frame, or as part of the prompt's.

    A run in the prompt's frame is given all blocks as segments. What lies behind a row is not
    visible to it, so that later blocks are not written yet does no harm.
    """
    entry = sequence.entries[index]
    first = entry.num_filled + taken.get(id(entry), 0)
    last = first + num_tokens
    taken[id(entry)] = last - entry.num_filled
    shift = int(sequence.shifts[index])
    return Run(
        tokens=sequence.request.blocks[index].tokens[first:last],
        position=first + (0 if sequence.is_framed else int(sequence.origins[index]) - shift),
        slots=page_slots(entry.pages, first, last),
        segments=_alone(sequence, index, last, rope)
        if sequence.is_framed
        else _context(sequence, rope, shift),
    )


def _alone(sequence: Sequence, index: int, last: int, rope: Rope) -> Segments:
    """The first ``last`` tokens of a block that is a frame, and the sink if there is one."""
    own = own_segment(sequence.entries[index].pages, 0, last, len(rope.inv_freq))
    num_sink = sequence.num_sink(index)
    if not num_sink:
        return own
    distance = np.array([num_sink], np.int64)
    sink = frame_segments([(sequence.entries[0].pages, num_sink)], distance, rope)
    return Segments.concat([sink, own])


def _own_run(sequence: Sequence, num_tokens: int, rope: Rope) -> Run:
    """The next tokens of the event or reply, attending to all blocks."""
    first, last = sequence.num_computed, sequence.num_computed + num_tokens
    return Run(
        tokens=np.array(sequence.tokens[first:last], np.int32),
        position=sequence.event_origin + first,
        slots=page_slots(sequence.pages, first, last),
        segments=_up_to(sequence, last, rope),
        num_logits=num_tokens if sequence.request.score else int(last == len(sequence.tokens)),
    )


def _option_run(sequence: Sequence, option: int, num_tokens: int, rope: Rope) -> Run:
    """The next tokens of an option, attending to all blocks and the whole event."""
    assert sequence.scoring is not None
    end = len(sequence.request.event)
    return sequence.scoring.run(
        option, num_tokens, sequence.event_origin + end, _up_to(sequence, end, rope)
    )


def _up_to(sequence: Sequence, last: int, rope: Rope) -> Segments:
    """All blocks and the first ``last`` tokens of the event and reply."""
    num_pages = pages_for(last)
    known = sequence.own_segments.get(num_pages)
    if known is None:
        own = own_segment(sequence.pages, sequence.event_origin, last, len(rope.inv_freq))
        context = _context(sequence, rope)
        known = Segments.concat([context, own]) if context.num_segments else own
        sequence.own_segments = {num_pages: known}
    return known.with_last_length(last)


def _context(sequence: Sequence, rope: Rope, shift: int = 0) -> Segments:
    """Segments of all blocks, the same in every step of this sequence.

    A block that was moved has its keys where it stood when they were rotated, ``shifts`` tokens
    before where it stands now. ``shift`` is that of the frame in which they are attended to.
    """
    if shift not in sequence.segments:
        sequence.segments[shift] = _make_context(sequence, rope, shift)
    return sequence.segments[shift]


def _make_context(sequence: Sequence, rope: Rope, shift: int) -> Segments:
    frames = [(entry.pages, entry.num_tokens) for entry in sequence.entries]
    origins = sequence.origins[:-1]
    if not frames:
        return no_segments(len(rope.inv_freq))
    if sequence.is_framed:
        placed = placed_origins(sequence.request.placement, np.diff(sequence.origins))
        return frame_segments(frames, placed[-1] - placed[:-1], rope)
    positions = (origins - shift).astype(np.int32)
    return frame_segments(frames, shift - sequence.shifts, rope, positions)


def _joined(first: Run, second: Run) -> Run:
    """Two runs of one frame, the second following on the first, as one."""
    return Run(
        tokens=np.concatenate([first.tokens, second.tokens]),
        position=first.position,
        slots=np.concatenate([first.slots, second.slots]),
        segments=second.segments,
        num_logits=second.num_logits,
    )

"""The integer arrays that tell the kernels what a forward pass computes and what it attends to.

Rows of the packed batch belong to *runs* (consecutive tokens of one frame). A run attends to
*segments*: keys at consecutive frame positions, held in pages. Two rules describe everything:

- **Visibility**: a query at frame position t sees the first
  ``clamp(t + 1 - segment_pos, 0, segment_len)`` keys of a segment. Segments of other frames have
  ``segment_pos = FAR_PAST``: all their keys are visible.
- **Distance**: before it meets a segment, the query (already rotated by its frame position) is
  rotated once more, by the angles in the segment's row of ``delta_cos``/``delta_sin``.

Pages hold ``PAGE_TOKENS`` tokens: keys ``[pages, kv_heads, dim, PAGE_TOKENS]`` (transposed, so that
one SIMD register holds one dimension of 16 keys), values ``[pages, kv_heads, PAGE_TOKENS, dim]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

PAGE_TOKENS = 16
FAR_PAST = -(2**30)

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Segments:
    """Segments that one run attends to; ``S`` segments over ``P`` pages.

    ``page_starts [S + 1]`` delimits each segment's part of ``pages [P]``; ``lengths [S]`` counts
    its keys; ``positions [S]`` is the frame position of its first key, or ``FAR_PAST``;
    ``distances [S]`` is its Δ in tokens, ``cos``/``sin [S, rotary_dim / 2]`` are the angles of
    that. All int32 or float32.
    """

    page_starts: Ints
    pages: Ints
    lengths: Ints
    positions: Ints
    distances: Ints
    cos: Floats
    sin: Floats

    @property
    def num_segments(self) -> int:
        return len(self.lengths)

    def with_last_length(self, length: int) -> Segments:
        """The same with ``length`` keys in the last segment, which must fit its pages."""
        lengths = self.lengths.copy()
        lengths[-1] = length
        return replace(self, lengths=lengths)

    @staticmethod
    def concat(parts: Sequence[Segments]) -> Segments:
        """All segments of ``parts`` in order. Raises ``ValueError`` if ``parts`` is empty."""
        if len(parts) == 1:
            return parts[0]
        page_counts = np.concatenate([np.diff(part.page_starts) for part in parts])
        return Segments(
            page_starts=starts(page_counts),
            pages=np.concatenate([part.pages for part in parts]),
            lengths=np.concatenate([part.lengths for part in parts]),
            positions=np.concatenate([part.positions for part in parts]),
            distances=np.concatenate([part.distances for part in parts]),
            cos=np.concatenate([part.cos for part in parts]),
            sin=np.concatenate([part.sin for part in parts]),
        )


@dataclass(frozen=True)
class Plan:
    """One forward pass: ``T`` rows in ``R`` runs with ``S`` segments.

    run_rows:      [R + 1] first packed row of each run
    run_segments:  [R + 1] first segment of each run
    segments:      all runs' segments, in run order
    row_positions: [T] position of each row in its frame
    row_slots:     [T] where its key and value are written: page * PAGE_TOKENS + place in the page
    derived:       what a kernel makes of the plan, kept for the next layers. Arrays of a plan that
                   a kernel has seen must not be changed.
    """

    run_rows: Ints
    run_segments: Ints
    segments: Segments
    row_positions: Ints
    row_slots: npt.NDArray[np.int64]
    derived: dict[object, object] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def num_rows(self) -> int:
        return len(self.row_positions)

    @property
    def num_runs(self) -> int:
        return len(self.run_rows) - 1

    def check(self, num_pages: int) -> None:
        """Raise ``ValueError`` unless every index lies inside its array and the page pool."""
        seg = self.segments
        _check_starts("run_rows", self.run_rows, self.num_rows)
        _check_starts("run_segments", self.run_segments, seg.num_segments)
        if len(self.run_segments) != len(self.run_rows):
            raise ValueError("run_segments and run_rows must have one entry per run, plus one")
        if len(seg.page_starts) != seg.num_segments + 1:
            raise ValueError("segments.page_starts must have one entry per segment, plus one")
        _check_starts("segments.page_starts", seg.page_starts, len(seg.pages))
        if len(seg.positions) != seg.num_segments or len(seg.cos) != seg.num_segments:
            raise ValueError("segments.positions, cos and sin must have one row per segment")
        if len(seg.distances) != seg.num_segments:
            raise ValueError("segments.distances must have one row per segment")
        if seg.cos.shape != seg.sin.shape:
            raise ValueError(f"cos {seg.cos.shape} and sin {seg.sin.shape} differ in shape")
        room = np.diff(seg.page_starts) * PAGE_TOKENS
        if np.any(seg.lengths < 0) or np.any(seg.lengths > room):
            raise ValueError("a segment is longer than its pages")
        if len(seg.pages) and (seg.pages.min() < 0 or seg.pages.max() >= num_pages):
            raise ValueError(f"a segment names a page outside 0 … {num_pages - 1}")
        if len(self.row_slots) != self.num_rows:
            raise ValueError("row_slots must have one entry per row")
        if self.num_rows and (
            self.row_slots.min() < 0 or self.row_slots.max() >= num_pages * PAGE_TOKENS
        ):
            raise ValueError("a row is written outside the page pool")


def starts(counts: npt.ArrayLike) -> Ints:
    """``[n]`` counts -> ``[n + 1]`` int32 running sums from 0."""
    counts = np.asarray(counts)
    out = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=out[1:])
    return out


def _check_starts(name: str, values: Ints, end: int) -> None:
    if len(values) < 1 or values[0] != 0 or values[-1] != end or np.any(np.diff(values) < 0):
        raise ValueError(f"{name} must rise from 0 to {end}")

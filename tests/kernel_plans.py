"""Random plans with keys and values, for tests and benchmarks of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from game_agent_kernels import FAR_PAST, PAGE_TOKENS, Plan, Segments
from game_agent_kernels.plan import starts


@dataclass(frozen=True)
class RunShape:
    """One run: its rows, the frame position of the first, and what it attends to.

    far:    lengths of segments of other frames
    shared: numbers of blocks that several runs read (see :class:`PlanBuilder`), one behind another
    own:    whether the frame's own keys, up to the last row, are a segment
    chain:  lengths of the pieces of a frame (full mode): segments at rising positions
    """

    rows: int
    position: int = 0
    far: Sequence[int] = ()
    shared: Sequence[int] = ()
    own: bool = True
    chain: Sequence[int] = ()


@dataclass
class PlanBuilder:
    """Lays out runs on scattered pages; places that no segment uses hold NaN."""

    heads: int
    kv_heads: int
    dim: int
    rotary: int | None = None
    shared_lengths: Sequence[int] = ()
    seed: int = 0
    dtype: torch.dtype = torch.float32

    def build(self, runs: Sequence[RunShape]) -> tuple[Tensor, Tensor, Tensor, Plan]:
        """(q, k_pages, v_pages, plan)."""
        rng = np.random.default_rng(self.seed)
        half = (self.dim if self.rotary is None else self.rotary) // 2
        table = [self._run_segments(run, rng) for run in runs]
        used = [length for segments in table for _, length, _, _ in segments]
        used += list(self.shared_lengths)
        num_pages = sum(-(-length // PAGE_TOKENS) for length in used) + 3
        order = iter(rng.permutation(num_pages).tolist())
        shared = [self._take(order, length) for length in self.shared_lengths]
        flat = [
            (self._take(order, length) if block < 0 else shared[block], length, position, distance)
            for segments in table
            for block, length, position, distance in segments
        ]
        plan = self._plan(runs, table, flat, half)
        k, v = self._pages(num_pages, flat)
        generator = torch.Generator().manual_seed(self.seed)
        q = torch.randn(plan.num_rows, self.heads, self.dim, generator=generator)
        return q, k, v, plan

    def _run_segments(
        self, run: RunShape, rng: np.random.Generator
    ) -> list[tuple[int, int, int, int]]:
        """(shared block or -1, length, position, distance) of each segment of a run."""
        out = [(-1, n, FAR_PAST, int(rng.integers(0, 9000))) for n in run.far]
        distance = int(rng.integers(0, 9000)) + sum(self.shared_lengths[i] for i in run.shared)
        for block in run.shared:
            out.append((block, self.shared_lengths[block], FAR_PAST, distance))
            distance -= self.shared_lengths[block]
        position = 0
        for length in run.chain:
            out.append((-1, length, position, 0))
            position += length
        if run.own:
            out.append((-1, run.position + run.rows - position, position, 0))
        return out

    @staticmethod
    def _take(order: object, length: int) -> list[int]:
        return [next(order) for _ in range(-(-length // PAGE_TOKENS))]  # type: ignore[call-overload]

    @staticmethod
    def _plan(
        runs: Sequence[RunShape],
        table: Sequence[Sequence[object]],
        flat: Sequence[tuple[list[int], int, int, int]],
        half: int,
    ) -> Plan:
        inverse = 10000.0 ** (-np.arange(half) / max(half, 1))
        angles = np.array([distance for *_, distance in flat], np.float64)[:, None] * inverse
        segments = Segments(
            page_starts=starts([len(pages) for pages, *_ in flat]),
            pages=np.array([page for pages, *_ in flat for page in pages], np.int32),
            lengths=np.array([length for _, length, _, _ in flat], np.int32),
            positions=np.array([position for _, _, position, _ in flat], np.int32),
            distances=np.array([distance for *_, distance in flat], np.int32),
            cos=np.cos(angles).astype(np.float32).reshape(len(flat), half),
            sin=np.sin(angles).astype(np.float32).reshape(len(flat), half),
        )
        positions = [np.arange(run.position, run.position + run.rows) for run in runs]
        return Plan(
            run_rows=starts([run.rows for run in runs]),
            run_segments=starts([len(segments) for segments in table]),
            segments=segments,
            row_positions=np.concatenate([*positions, np.empty(0)]).astype(np.int32),
            row_slots=np.zeros(sum(run.rows for run in runs), np.int64),
        )

    def _pages(
        self, num_pages: int, flat: Sequence[tuple[list[int], int, int, int]]
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (num_pages, self.kv_heads)
        k = torch.full((*shape, self.dim, PAGE_TOKENS), torch.nan)
        v = torch.full((*shape, PAGE_TOKENS, self.dim), torch.nan)
        for pages, length, *_ in flat:
            for i, page in enumerate(pages):
                n = min(PAGE_TOKENS, length - i * PAGE_TOKENS)
                k[page, :, :, :n] = torch.randn(self.kv_heads, self.dim, n, generator=generator)
                v[page, :, :n] = torch.randn(self.kv_heads, n, self.dim, generator=generator)
        return k.to(self.dtype), v.to(self.dtype)

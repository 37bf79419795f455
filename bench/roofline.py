"""What the machine can do at best: the two ends of its roofline, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MATRIX = 1536
BUFFER_BYTES = 2**28


@dataclass(frozen=True)
class Roofline:
    """Most float32 GFLOP/s of a large matrix product, and GB/s of a sum over main memory."""

    gflops: float
    gbytes: float

    def seconds(self, gflop: float, gbytes: float) -> float:
        """The shortest time for so much arithmetic and so many bytes."""
        return max(gflop / self.gflops, gbytes / self.gbytes)


def measure_roofline(repeats: int = 7) -> Roofline:
    """With torch's threads, as many as the kernels get; best of ``repeats``."""
    a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    buffer = torch.ones(BUFFER_BYTES // 4)
    product = best_seconds(lambda: a @ b, repeats)
    total = best_seconds(lambda: buffer.sum(), repeats)
    return Roofline(2e-9 * MATRIX**3 / product, 1e-9 * BUFFER_BYTES / total)


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """The shortest of ``repeats`` runs, after one to warm up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best

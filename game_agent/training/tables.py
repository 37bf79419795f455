"""Rows of unlike lengths in padded tables, and back: how attention over them is one operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]


def frame_tables(frames: Sequence[range]) -> tuple[list[Array], Array]:
    """Frames in padded tables, one for each doubling of length, and the slot of each row.

    Frames cover rows 0 … n - 1 without overlap.
    """
    groups = [[frames[i] for i in group] for group in alike(list(map(doubling, frames)))]
    tables = [padded(group) for group in groups]
    return tables, slots_of(groups, tables)


def doubling(rows: range) -> int:
    """The same for lengths within a factor of two; all short ones are alike."""
    return (max(len(rows), 16) - 1).bit_length()


def alike(sizes: Sequence[Any]) -> list[list[int]]:
    """Places of equal sizes, from the smallest size to the largest."""
    groups: dict[Any, list[int]] = {}
    for place, size in enumerate(sizes):
        groups.setdefault(size, []).append(place)
    return [groups[size] for size in sorted(groups)]


def padded(group: Sequence[range]) -> Array:
    """[F, L] of F frames. Padded with rows of their own: a gradient is added to each, and all of
    them at one place would wait for one another on a GPU."""
    table = np.empty((len(group), max(map(len, group))), np.int64)
    for line, frame in zip(table, group, strict=True):
        line[: len(frame)] = frame
        line[len(frame) :] = frame[-1]
    return table


def slots_of(groups: Sequence[Sequence[range]], tables: Sequence[Array]) -> Array:
    """Where each row stands in the flattened ``tables`` of ``groups``."""
    slots = np.empty(sum(len(frame) for group in groups for frame in group), np.int64)
    start = 0
    for group, table in zip(groups, tables, strict=True):
        for frame in group:
            slots[frame.start : frame.stop] = range(start, start + len(frame))
            start += table.shape[1]
    return slots

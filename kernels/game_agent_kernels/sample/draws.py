"""What is asked of each row, and what chance gives it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]


class Draws(NamedTuple):
    """How the tokens of some rows are chosen: arrays in main memory, an entry for each row.

    temperatures: [rows] float32, 0 is greedy
    top_ps:       [rows] float32, keep the fewest most likely tokens that reach it together; 1: all
    top_ks:       [rows] int64, keep so many of the most likely tokens; 0: all
    chances:      [..., rows] float32 in [0, 1), so that a row's token does not depend on others
    """

    temperatures: Floats
    top_ps: Floats
    top_ks: Longs
    chances: Floats

    @staticmethod
    def greedy(*shape: int) -> Draws:
        """The most likely token of each row; ``shape`` is that of the chances."""
        ones = np.ones(shape[-1], np.float32)
        return Draws(0 * ones, ones, np.zeros(shape[-1], np.int64), np.zeros(shape, np.float32))

    def check(self, *shape: int) -> None:
        """Raise ``TypeError`` or ``ValueError`` unless they fit rows, or steps and rows."""
        arrays: tuple[npt.NDArray[Any], ...] = self
        kinds = (np.float32, np.float32, np.int64, np.float32)
        for name, array, kind in zip(self._fields, arrays, kinds, strict=True):
            if array.dtype != kind or not array.flags.c_contiguous:
                raise TypeError(f"{name} must be contiguous {np.dtype(kind)}")
            if array.shape != (expected := shape if name == "chances" else shape[-1:]):
                raise ValueError(f"{name} {list(array.shape)} must be {list(expected)}")
        if not (np.isfinite(self.temperatures).all() and (self.top_ps >= 0).all()):
            raise ValueError("temperatures must be finite, and top_ps no less than 0")
        if (self.top_ks < 0).any():
            raise ValueError("top_ks must not be negative")

    def of(self, rows: npt.NDArray[np.bool_]) -> Draws:
        """Those of some rows, with one chance each."""
        return Draws(
            self.temperatures[rows], self.top_ps[rows], self.top_ks[rows], self.chances[rows]
        )

    @property
    def cuts(self) -> npt.NDArray[np.bool_]:
        """Of which rows some tokens are left out: [rows]."""
        return (self.top_ps < 1) | (self.top_ks > 0)

"""Where the blocks of a block-mode prompt stand: as they follow on each other, or as baselines do.

The others are only for comparison, as in the Block-Attention paper (arXiv 2409.15355):
every block is encoded alone all the same, only its distance to the event differs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Placement = Literal["prompt", "unmoved", "slots", "parallel"]
PLACEMENTS: tuple[Placement, ...] = ("prompt", "unmoved", "slots", "parallel")


def origins(placement: Placement, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions [S + 1] of S blocks of ``lengths`` [S], and last of the event.

    prompt:   one after another: positions are re-encoded
    unmoved:  every block where it was encoded, at 0; the event behind all tokens (the paper's
              "without position re-encoding")
    slots:    in slots of fixed size, the longest block's, like the schemas of Prompt Cache
              (arXiv 2311.04934); positions may go beyond the model's context
    parallel: all behind the first block, side by side, the event behind the longest, like the paths
              of Superposition Prompting (arXiv 2404.06910), without its pruning
    """
    behind = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if placement == "unmoved":
        behind[:-1] = 0
    elif placement == "slots":
        behind[:] = np.arange(len(behind)) * lengths.max(initial=0)
    elif placement == "parallel" and len(lengths):
        behind[1:] = lengths[0]
        behind[-1] += lengths[1:].max(initial=0)
    return behind

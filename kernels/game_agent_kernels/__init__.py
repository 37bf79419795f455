"""Operations on paged keys and values, each with a plain torch reference.

The package knows nothing of models or games: tensors, pages and the integer arrays of a
:class:`~game_agent_kernels.plan.Plan` come in, tensors go out.
"""

from game_agent_kernels.dispatch import (
    Kernels,
    available_backends,
    kernels_for,
    multiplies_bfloat16,
    set_num_threads,
)
from game_agent_kernels.linear.reference import PackedLinear
from game_agent_kernels.plan import FAR_PAST, PAGE_TOKENS, Plan, Segments
from game_agent_kernels.sample.draws import Draws

__all__ = [
    "FAR_PAST",
    "PAGE_TOKENS",
    "Draws",
    "Kernels",
    "PackedLinear",
    "Plan",
    "Segments",
    "available_backends",
    "kernels_for",
    "multiplies_bfloat16",
    "set_num_threads",
]

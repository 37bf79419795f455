"""What the wrappers of the compiled CPU kernels have in common.

Importing this module raises ``ImportError`` where the extension was not built.
"""

from __future__ import annotations

import torch
from torch import Tensor

import game_agent_kernels._cpu as _cpu

_cpu.set_num_threads(torch.get_num_threads())


def takes(*tensors: Tensor | None) -> bool:
    """Whether the compiled element-wise kernels take these: contiguous float32 in main memory.

    Where a gradient is wanted they do not: they would cut it off without a word.
    """
    recording = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype != torch.float32 or not tensor.is_cpu or not tensor.is_contiguous():
            return False
        if recording and tensor.requires_grad:
            return False
    return True


def set_num_threads(count: int) -> None:
    """Threads of the compiled kernels, the caller's included; at first torch's number."""
    _cpu.set_num_threads(count)


def num_threads() -> int:
    """How many threads the compiled kernels use."""
    return _cpu.num_threads()


def instruction_sets() -> list[str]:
    """Copies of the kernels that this processor runs, the fastest first.

    Of ``amx``, ``avx512_bf16``, ``avx512``, ``avx2`` and ``plain``. All compute in float32, but for
    products in attention. In ``amx`` with 12 rows and more they keep 16 bits of each factor, so
    that scores and sums are off by about 1e-5 of themselves (bf16x3, see ``split_bf16.hpp``). In
    ``avx512_bf16``, over bfloat16 pages only, they keep about 12 bits of queries and keys, so that
    scores are off by about 1e-4 of themselves (``fixed_point.hpp``), and 8 of a weight
    (``attend_bf16.hpp``).
    """
    return _cpu.instruction_sets()


def instruction_set() -> str:
    """The one in use."""
    return _cpu.instruction_set()


def set_instruction_set(name: str) -> None:
    """Use another copy than the fastest, to test it. Raises ``ValueError`` for an unknown one."""
    _cpu.set_instruction_set(name)

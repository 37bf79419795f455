"""What the wrappers of the GPU kernels have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def takes(*tensors: Tensor | None) -> bool:
    """Whether the element-wise kernels take these: contiguous, and no gradient is wanted.

    They would cut a gradient off without a word.
    """
    recording = torch.is_grad_enabled()
    return all(
        tensor is None or (tensor.is_contiguous() and not (recording and tensor.requires_grad))
        for tensor in tensors
    )

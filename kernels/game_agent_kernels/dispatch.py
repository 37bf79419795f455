"""Which implementation of each operation runs, chosen once per device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from game_agent_kernels.rms_norm.reference import add_rms_norm, rms_norm
from game_agent_kernels.rope_store.reference import rope_store
from game_agent_kernels.sample.reference import sample
from game_agent_kernels.segment_attention import reference, rope_shift
from game_agent_kernels.silu_mul.reference import silu_mul

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernels:
    """One implementation of every operation; signatures are those of the references."""

    name: str
    segment_attention: Callable[..., Tensor]
    rope_store: Callable[..., Tensor] = rope_store
    rms_norm: Callable[..., Tensor] = rms_norm
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]] = add_rms_norm
    silu_mul: Callable[..., Tensor] = silu_mul
    sample: Callable[..., int] = sample


_BACKENDS = {
    "reference": Kernels("reference", reference.segment_attention),
    "rope_shift": Kernels("rope_shift", rope_shift.segment_attention),
}


def available_backends() -> tuple[str, ...]:
    """Names that :func:`kernels_for` accepts on this machine."""
    return tuple(_BACKENDS)


def kernels_for(device: torch.device, backend: str | None = None) -> Kernels:
    """The operations for ``device``; ``backend`` None picks the fastest that is there.

    Raises ``ValueError`` for a backend that does not exist here, naming those that do.
    """
    if backend is None:
        log.info("kernels: rope_shift on %s", device)
        return _BACKENDS["rope_shift"]
    if backend not in _BACKENDS:
        raise ValueError(f"no backend {backend!r} here; there are: {', '.join(_BACKENDS)}")
    return _BACKENDS[backend]

"""Which implementation of each operation runs, chosen once per device."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from game_agent_kernels.linear.reference import PackedLinear, linear, pack_linear
from game_agent_kernels.plan import Plan
from game_agent_kernels.rms_norm.reference import add_rms_norm, rms_norm
from game_agent_kernels.rope_store.reference import rope_store
from game_agent_kernels.sample.batch import sample_rows
from game_agent_kernels.sample.draws import Draws
from game_agent_kernels.segment_attention import reference, rope_shift
from game_agent_kernels.silu_mul.reference import silu_mul

log = logging.getLogger(__name__)

try:
    from game_agent_kernels import native
    from game_agent_kernels.decoder import cpu as cpu_decoder
    from game_agent_kernels.linear import cpu as cpu_linear
    from game_agent_kernels.rms_norm import cpu as cpu_norm
    from game_agent_kernels.rope_store import cpu as cpu_store
    from game_agent_kernels.sample import cpu as cpu_sample
    from game_agent_kernels.segment_attention import cpu as cpu_attention
    from game_agent_kernels.silu_mul import cpu as cpu_silu
except ImportError as error:
    _missing: str | None = str(error)
else:
    _missing = None

# Triton's compiler needs a GPU; its interpreter, which tests use, is asked for by this variable.
_has_triton = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
if _has_triton:
    try:
        from game_agent_kernels.rms_norm import triton as gpu_norm
        from game_agent_kernels.rope_store import triton as gpu_store
        from game_agent_kernels.segment_attention import flash
        from game_agent_kernels.segment_attention import triton as gpu_attention
        from game_agent_kernels.silu_mul import triton as gpu_silu
    except ImportError as error:
        _has_triton = False
        log.warning("no GPU kernels (%s): install 'triton', or answers on a GPU are slow", error)


class CompiledDecoder(Protocol):
    """A forward pass in one call; see :class:`game_agent_kernels.decoder.cpu.CompiledDecoder`."""

    def forward(
        self,
        residual: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
        plan: Plan,
        out_rows: Tensor,
        out_plan: Plan,
    ) -> Tensor: ...

    def burst(
        self,
        tokens: npt.NDArray[np.int64],
        slots: npt.NDArray[np.int64],
        embedding: Tensor,
        cos: npt.NDArray[np.float32],
        sin: npt.NDArray[np.float32],
        keys: Tensor,
        values: Tensor,
        plan: Plan,
        draws: Draws,
        stops: npt.NDArray[np.int64],
        news: npt.NDArray[np.int32],
        max_s: float,
    ) -> npt.NDArray[np.int64]: ...


@dataclass(frozen=True)
class Kernels:
    """One implementation of every operation; signatures are those of the references.

    ``compile_decoder``: makes one call of a whole forward pass, where there is such a thing.
    ``capturable``: they can be captured in a CUDA graph, given a plan with a
    :class:`~game_agent_kernels.segment_attention.worklist.Launch`.
    """

    name: str
    segment_attention: Callable[..., Tensor]
    rope_store: Callable[..., Tensor] = rope_store
    rms_norm: Callable[..., Tensor] = rms_norm
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]] = add_rms_norm
    silu_mul: Callable[..., Tensor] = silu_mul
    pack_linear: Callable[..., PackedLinear] = pack_linear
    sample_rows: Callable[[Tensor, Draws], Tensor] = sample_rows
    linear: Callable[[Tensor, PackedLinear], Tensor] = linear
    compile_decoder: Callable[..., CompiledDecoder | None] | None = None
    capturable: bool = False


_BACKENDS = {
    "reference": Kernels("reference", reference.segment_attention),
    "rope_shift": Kernels("rope_shift", rope_shift.segment_attention),
}
if _missing is None:
    _BACKENDS["cpu"] = Kernels(
        "cpu",
        cpu_attention.segment_attention,
        cpu_store.rope_store,
        cpu_norm.rms_norm,
        cpu_norm.add_rms_norm,
        cpu_silu.silu_mul,
        pack_linear=cpu_linear.pack_linear,
        linear=cpu_linear.linear,
        sample_rows=cpu_sample.sample_rows,
        compile_decoder=cpu_decoder.compile_decoder,
    )
if _has_triton:
    _BACKENDS["triton"] = Kernels(
        "triton",
        gpu_attention.segment_attention,
        gpu_store.rope_store,
        gpu_norm.rms_norm,
        gpu_norm.add_rms_norm,
        gpu_silu.silu_mul,
        capturable=True,
    )
    _BACKENDS["flash"] = replace(
        _BACKENDS["triton"],
        name="flash",
        segment_attention=flash.before(gpu_attention.segment_attention),
    )

_warned: set[str] = set()


def available_backends() -> tuple[str, ...]:
    """Names that :func:`kernels_for` accepts on this machine."""
    return tuple(_BACKENDS)


def kernels_for(device: torch.device, backend: str | None = None) -> Kernels:
    """The operations for ``device``; ``backend`` None picks the fastest that is there.

    Raises ``ValueError`` for a backend that does not exist here, naming those that do.
    """
    if backend is None:
        backend = _fastest(device)
        log.info("kernels: %s on %s", backend, device)
    if backend not in _BACKENDS:
        raise ValueError(f"no backend {backend!r} here; there are: {', '.join(_BACKENDS)}")
    return _BACKENDS[backend]


def set_num_threads(count: int) -> None:
    """Threads of the compiled CPU kernels, at first torch's number; no effect without them.

    Raises ``ValueError`` below 1.
    """
    if count < 1:
        raise ValueError(f"the kernels need at least 1 thread, not {count}")
    if _missing is None:
        native.set_num_threads(count)


def multiplies_bfloat16() -> bool:
    """Whether the compiled CPU kernels attend faster to bfloat16 pages than to float32 ones."""
    return _missing is None and native.instruction_set() in ("amx", "avx512_bf16")


def _fastest(device: torch.device) -> str:
    if device.type != "cpu":
        return "triton" if device.type == "cuda" and _has_triton else "rope_shift"
    if _missing is None:
        return "cpu"
    if _missing not in _warned:
        _warned.add(_missing)
        log.warning(
            "the compiled CPU kernels are not there (%s): answers are the same, several times "
            "slower. Install a C++17 compiler, then run 'pip install .' again.",
            _missing,
        )
    return "rope_shift"

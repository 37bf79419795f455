"""Types of the compiled module (kernels/src/module.cpp). Tensors come as addresses."""

import numpy as np
import numpy.typing as npt

HAS_FLOAT16_WEIGHTS: bool

_DrawArgs = tuple[int, int, int, int]

class Schedule:
    def __init__(
        self,
        run_rows: npt.NDArray[np.int32],
        run_segments: npt.NDArray[np.int32],
        page_starts: npt.NDArray[np.int32],
        pages: npt.NDArray[np.int32],
        lengths: npt.NDArray[np.int32],
        positions: npt.NDArray[np.int32],
        cos: npt.NDArray[np.float32],
        sin: npt.NDArray[np.float32],
        row_positions: npt.NDArray[np.int32],
        heads: int,
        kv_heads: int,
        dim: int,
    ) -> None: ...
    def attend(
        self, q: int, keys: int, values: int, out: int, scale: float, bfloat16: bool
    ) -> None: ...
    @property
    def num_parts(self) -> int: ...

def check_plan(
    run_rows: npt.NDArray[np.int32],
    run_segments: npt.NDArray[np.int32],
    page_starts: npt.NDArray[np.int32],
    pages: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int32],
    positions: npt.NDArray[np.int32],
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
    row_positions: npt.NDArray[np.int32],
    row_slots: npt.NDArray[np.int64],
    num_pages: int,
) -> None: ...

_Linear = tuple[int, int, int, int, int, int]

class Decoder:
    def __init__(
        self,
        hidden: int,
        inner: int,
        heads: int,
        kv_heads: int,
        dim: int,
        eps: float,
        scale: float,
    ) -> None: ...
    def add_layer(
        self,
        input_norm: int,
        qkv: _Linear,
        out: _Linear,
        post_norm: int,
        gate_up: _Linear,
        down: _Linear,
        q_norm: int,
        k_norm: int,
    ) -> None: ...
    def set_head(self, norm: int, head: _Linear) -> None: ...
    def forward(
        self,
        residual: int,
        rows: int,
        cos: int,
        sin: int,
        half: int,
        slots: int,
        keys: int,
        values: int,
        layer_bytes: int,
        bfloat16: bool,
        num_pages: int,
        schedule: Schedule,
        out_rows: int,
        num_out: int,
        out_schedule: Schedule,
        logits: int,
    ) -> None: ...
    def burst(
        self,
        schedule: Schedule,
        rows: int,
        max_steps: int,
        max_s: float,
        tokens: int,
        positions: int,
        slots: int,
        embedding: int,
        embedding_kind: int,
        hidden: int,
        vocab: int,
        cos: int,
        sin: int,
        half: int,
        keys: int,
        values: int,
        layer_bytes: int,
        bfloat16: bool,
        num_pages: int,
        draws: _DrawArgs,
        stops: int,
        num_stops: int,
        news: int,
        out: int,
    ) -> int: ...

def sample(logits: int, rows: int, count: int, draws: _DrawArgs, tokens: int) -> None: ...
def norm(
    x: int, residual: int, weight: int, out: int, sum: int, rows: int, dim: int, eps: float
) -> None: ...
def silu_mul(gate_up: int, out: int, rows: int, inner: int) -> None: ...
def rope_store(
    qkv: int,
    cos: int,
    sin: int,
    slots: int,
    keys: int,
    values: int,
    q_norm: int,
    k_norm: int,
    q_out: int,
    rows: int,
    num_pages: int,
    heads: int,
    kv_heads: int,
    dim: int,
    half: int,
    eps: float,
    bfloat16: bool,
) -> None: ...
def linear(
    x: int,
    panels: int,
    kind: int,
    scale: int,
    bias: int,
    out: int,
    rows: int,
    num_in: int,
    num_out: int,
) -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def set_instruction_set(name: str) -> None: ...

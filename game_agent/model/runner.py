"""A loaded model, ready to run steps: decoder, pages and tokenizer of one checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from game_agent.blocks.block import Block
from game_agent.blocks.pool import PagePool, pages_for, touch_first_pages
from game_agent.errors import InvalidInput, ModelError
from game_agent.model.decoder import Decoder
from game_agent.model.flops import Flops
from game_agent.model.graphs import DecoderGraphs, Progress, capture_on_cuda
from game_agent.model.planner import Step
from game_agent.model.rope import Rope
from game_agent.model.spec import ModelSpec, load_spec
from game_agent.model.weights import load_weights
from game_agent.text.choosing import checkpoint_name, choose_format
from game_agent.text.formats import PromptEncoder
from game_agent.text.tokenizer import Tokenizer
from game_agent_kernels import Draws, Kernels, kernels_for, multiplies_bfloat16

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHT_BITS = {"int8": 8}
KV_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTO = "auto"  # a kv_dtype too

_T = TypeVar("_T")


class ModelRunner:
    """Steps to logits, on one device."""

    def __init__(
        self,
        name: str,
        spec: ModelSpec,
        decoder: Decoder,
        pool: PagePool,
        encoder: PromptEncoder,
        kernels: Kernels,
    ) -> None:
        self.name = name
        self.spec = spec
        self.flops = Flops.of(spec)
        self.decoder = decoder
        self.pool = pool
        self.encoder = encoder
        self.kernels = kernels
        self.digest = decoder.weights.digest + str(pool.keys.dtype).encode()
        self.stop_token_ids = frozenset((*spec.stop_token_ids, *encoder.stop_token_ids))
        self.sink: Block | None = None
        self._graphs: DecoderGraphs | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.encoder.tokenizer

    @property
    def rope(self) -> Rope:
        return self.decoder.rope

    @property
    def max_context_tokens(self) -> int:
        """Most tokens of a prompt, without the sink."""
        return self.spec.max_context_tokens - (0 if self.sink is None else len(self.sink))

    def set_sink(self, sink: Block) -> None:
        """From now on, block mode reads every block behind ``sink``: see ``load_runner``.

        Raises :class:`InvalidInput` when it leaves no room in the model's context.
        """
        if 2 * len(sink) > self.spec.max_context_tokens:
            raise InvalidInput(
                f"the sink has {len(sink)} tokens, the model's context holds "
                f"{self.spec.max_context_tokens}; at most half of it may be sink",
                where="sink",
            )
        self.sink = sink
        self.digest += sink.digest

    @property
    def vocab_size(self) -> int:
        return self.spec.vocab_size

    @property
    def end_token_id(self) -> int | None:
        """What ends a reply in the prompt format, or else in the model; None: nothing does."""
        return next(iter((*self.encoder.stop_token_ids, *self.spec.stop_token_ids)), None)

    def capture_graphs(self, progress: Progress | None = None) -> None:
        """Capture short passes as CUDA graphs, where device and kernels can; seconds, once.

        ``progress`` hears (how many are done, of how many).
        """
        if self.pool.keys.is_cuda and self.kernels.capturable and self.pool.num_free > 1:
            with self._on_device():
                capture = capture_on_cuda()
                self._graphs = DecoderGraphs(self.decoder, self.pool, capture, progress=progress)

    def touch_memory(self) -> None:
        """Have the system back the whole pool with memory, in the background, where it can."""
        touch_first_pages(self.pool, self.pool.num_pages * self.pool.page_bytes)

    def forward(self, step: Step) -> Tensor:
        """Logits [rows asked for, vocab] float32; keys and values of all rows go into the pool.

        Where passes are captured, logits may be overwritten by the next call.
        """
        with self._on_device():
            logits = None if self._graphs is None else self._graphs.forward(step)
            return self.decoder.forward(step, self.pool) if logits is None else logits

    @property
    def can_burst(self) -> bool:
        """Whether :meth:`burst` is there: where a pass is one compiled call."""
        return self.decoder.is_compiled

    def burst(
        self,
        step: Step,
        slots: npt.NDArray[np.int64],
        draws: Draws,
        news: npt.NDArray[np.int32],
        max_s: float,
    ) -> npt.NDArray[np.int64]:
        """The next tokens of replies, several for each: [passes, rows].

        ``step`` has one row for each reply; slots and chances [steps, rows] are those of as many
        passes. They end early after a token that ends a reply, when ``news`` [1] is not 0, where
        pages end, or before ``max_s`` seconds are over. -1 stands where logits are no numbers.
        """
        stops = np.array(sorted(self.stop_token_ids), np.int64)
        return self.decoder.burst(step, slots, draws, stops, news, max_s, self.pool)

    def _on_device(self) -> AbstractContextManager[object]:
        """Triton launches, and streams are made, on the thread's device, not on the tensors'."""
        device = self.pool.keys.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def load_runner(
    folder: str | os.PathLike[str],
    *,
    kv_memory_bytes: int,
    device: str | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    kv_dtype: str | None = None,
    prompt_format: str | None = None,
    prompt_prefix: str = "",
    backend: str | None = None,
    sink: str | None = None,
    progress: Progress | None = None,
) -> ModelRunner:
    """Load a Hugging Face checkpoint folder (config.json, tokenizer.json, safetensors).

    device:  "cpu", "cuda", …; None is the best there is
    dtype:   "float32", "bfloat16", "float16"; None is float32 on a CPU, bfloat16 elsewhere
    weights: None keeps them in ``dtype``; "int8" rounds every matrix (not the table of embeddings)
             to 8 bits, a scale per output: a quarter of the memory to read per decoded token
    kv_dtype: "float32" or "bfloat16" for cached keys and values; None is ``dtype``, the only choice
             on a GPU; "auto" is bfloat16 on a processor that multiplies pairs of them, else None
    prompt_format, prompt_prefix: see ``choose_format``
    backend: which kernels; None is the fastest
    sink:    a text that begins every prompt of block mode and that every other block is encoded
             behind. Models that never saw a block alone keep their attention sink in it
    progress: hears (how many are done, of how many) while CUDA graphs are captured

    Raises :class:`ModelError` for an unusable folder, :class:`InvalidInput` for a wrong setting.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder; give a Hugging Face checkpoint folder")
    numbers = _Numbers.of(device, dtype, weights, kv_dtype)
    spec = load_spec(path)
    encoder = _load_encoder(path, spec, prompt_format, prompt_prefix)
    try:
        kernels = kernels_for(numbers.device, backend)
    except ValueError as error:
        raise InvalidInput(str(error), where="backend") from None
    pack = partial(kernels.pack_linear, bits=numbers.weight_bits, dtype=numbers.dtype)
    tensors = load_weights(path, spec, numbers.device, numbers.dtype, pack, weights or "")
    pool = _pool(spec, kv_memory_bytes, numbers.kv_dtype, numbers.device)
    touch_first_pages(pool)
    decoder = Decoder(spec, tensors, kernels)
    runner = ModelRunner(checkpoint_name(path), spec, decoder, pool, encoder, kernels)
    if sink is not None:
        runner.set_sink(Block(encoder.block(sink), "sink"))
    runner.capture_graphs(progress)
    return runner


class _Numbers(NamedTuple):
    """Where a model computes, and in what. ``weight_bits``: 8, or None for those of ``dtype``."""

    device: torch.device
    dtype: torch.dtype
    weight_bits: int | None
    kv_dtype: torch.dtype

    @staticmethod
    def of(
        device: str | None, dtype: str | None, weights: str | None, kv_dtype: str | None
    ) -> _Numbers:
        """From the settings of ``load_runner``. Raises :class:`InvalidInput`."""
        where = _device(device)
        usual = DTYPES["float32" if where.type == "cpu" else "bfloat16"]
        kind = _choose("dtype", dtype, DTYPES, usual)
        if kv_dtype == AUTO:
            is_faster = kind == torch.float32 and where.type == "cpu" and multiplies_bfloat16()
            kv_dtype = "bfloat16" if is_faster else None
        kv_kind = _choose("kv_dtype", kv_dtype, KV_DTYPES, kind)
        if kv_kind != kind and where.type != "cpu":
            raise InvalidInput(
                "on a GPU kv_dtype is that of the model: set dtype", where="kv_dtype"
            )
        return _Numbers(where, kind, _choose("weights", weights, WEIGHT_BITS, None), kv_kind)


def _device(name: str | None) -> torch.device:
    """Raises :class:`InvalidInput` for one that is not there."""
    num_gpus = torch.cuda.device_count()
    if name is None:
        return torch.device("cuda" if num_gpus else "cpu")
    present = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{n}" for n in range(num_gpus))]
    if name not in present:
        found = "" if num_gpus else "; torch finds no GPU with CUDA"
        raise InvalidInput(
            f"device must be one of {', '.join(present)}, not {name!r}{found}", where="device"
        )
    return torch.device(name)


def _load_encoder(
    path: Path, spec: ModelSpec, prompt_format: str | None, prompt_prefix: str
) -> PromptEncoder:
    """Raises :class:`ModelError` for a tokenizer that is not this model's."""
    tokenizer = Tokenizer.load(path)
    encoder = PromptEncoder(tokenizer, choose_format(path, tokenizer, prompt_format, prompt_prefix))
    if encoder.highest >= spec.vocab_size:
        raise ModelError(
            f"{path / 'tokenizer.json'} has a token {encoder.highest}, the vocab_size of "
            f"config.json is {spec.vocab_size}: it is another model's tokenizer"
        )
    return encoder


def _choose(name: str, chosen: str | None, choices: Mapping[str, _T], default: _T) -> _T:
    """The value of a setting. Raises :class:`InvalidInput` naming the choices."""
    if chosen is None:
        return default
    if chosen not in choices:
        raise InvalidInput(
            f"{name} must be one of {', '.join(choices)}, not {chosen!r}", where=name
        )
    return choices[chosen]


def _pool(spec: ModelSpec, memory_bytes: int, dtype: torch.dtype, device: torch.device) -> PagePool:
    per_page = spec.num_layers * spec.num_kv_heads * spec.head_dim * 2 * 16 * dtype.itemsize
    # More than that is never used by one prompt alone; less than one page is no cache.
    num_pages = max(memory_bytes // per_page, pages_for(1))
    return PagePool(
        num_pages,
        spec.num_layers,
        spec.num_kv_heads,
        spec.head_dim,
        dtype=dtype,
        device=device,
    )

"""A decoder with random weights beside Hugging Face's with the same: TTFT and decoding."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from game_agent.blocks.pool import PagePool, pages_for
from game_agent.model.decoder import Decoder
from game_agent.model.graphs import DecoderGraphs, capture_on_cuda
from game_agent.model.planner import (
    Run,
    Step,
    build_step,
    frame_segments,
    own_segment,
    page_slots,
)
from game_agent.model.spec import load_spec
from game_agent.model.weights import LayerWeights, Weights
from game_agent_kernels import PAGE_TOKENS, Kernels, Segments, kernels_for
from game_agent_kernels.linear.reference import pack_linear

EVENT_TOKENS = 50
BLOCK_TOKENS = 128
# New tokens of one pass, as the engine's default.
STEP_TOKENS = 2048

ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
    max_position_embeddings=131072,
    rope_parameters=ROPE,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
)
QWEN3_8B = Qwen3Config(
    hidden_size=4096,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=12288,
    vocab_size=151936,
    max_position_embeddings=40960,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
SMOKE_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 32,
    "vocab_size": 64,
}
MODELS = {"llama-3.1-8b": LLAMA_8B, "qwen3-8b": QWEN3_8B}


def smaller(config: PretrainedConfig, **sizes: object) -> PretrainedConfig:
    """The same kind of model with other sizes."""
    values = {k: v for k, v in config.to_dict().items() if k != "layer_types"}
    return type(config)(**{**values, **sizes})


def hugging_face(
    config: PretrainedConfig, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """A model of this configuration with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def decoder_of(model: PreTrainedModel, kernels: Kernels) -> Decoder:
    """The runtime's decoder over a packed copy of the same weights."""
    with TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        spec = load_spec(Path(folder))
    inner = model.model
    layers = [_layer(layer) for layer in inner.layers]
    head = pack_linear(model.lm_head.weight)
    return Decoder(
        spec, Weights(inner.embed_tokens.weight, layers, inner.norm.weight, head), kernels
    )


def _layer(layer: torch.nn.Module) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = {
        name: getattr(attention, name).weight
        for name in ("q_norm", "k_norm")
        if hasattr(attention, name)
    }
    return LayerWeights(
        input_norm=layer.input_layernorm.weight,
        qkv=pack_linear(torch.cat([p.weight for p in projections])),
        out=pack_linear(attention.o_proj.weight),
        post_norm=layer.post_attention_layernorm.weight,
        gate_up=pack_linear(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])),
        down=pack_linear(mlp.down_proj.weight),
        **norms,
    )


@dataclass
class Bench:
    """A decoder, its pages, and its captured passes (None: every pass is eager)."""

    decoder: Decoder
    pool: PagePool
    graphs: DecoderGraphs | None = None

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def capture(self, progress: Callable[[int, int], None]) -> float:
        """Capture the graphs; seconds taken. Without a GPU a pass stands for its graph."""
        begun = time.perf_counter()
        capture = capture_on_cuda() if self.device.type == "cuda" else lambda run: run
        self.graphs = DecoderGraphs(self.decoder, self.pool, capture, progress=progress)
        return time.perf_counter() - begun

    def forward(self, step: Step) -> Tensor:
        logits = self.graphs.forward(step) if self.graphs is not None else None
        return self.decoder.forward(step, self.pool) if logits is None else logits

    @contextmanager
    def pages(self, *tokens: int) -> Iterator[list[np.ndarray]]:
        """Pages for frames of these lengths, given back at the end."""
        held = [self.pool.allocate(pages_for(n)) for n in tokens]
        try:
            yield held
        finally:
            for pages in held:
                self.pool.free(pages)

    def run(
        self,
        tokens: np.ndarray,
        pages: np.ndarray,
        first: int,
        context: Segments | None,
        wanted: int,
    ) -> Run:
        """Tokens from place ``first`` of a frame on, after ``context``."""
        last = first + len(tokens)
        own = own_segment(pages, 0, last, len(self.decoder.rope.inv_freq))
        segments = own if context is None else Segments.concat([context, own])
        return Run(tokens, first, page_slots(pages, first, last), segments, wanted)


class Prompt:
    """Random blocks in pages and an event after them."""

    def __init__(self, bench: Bench, context: int) -> None:
        self.bench = bench
        self.rng = np.random.default_rng(context)
        room = context - EVENT_TOKENS
        self.lengths = [min(BLOCK_TOKENS, room - at) for at in range(0, room, BLOCK_TOKENS)]
        self.origins = np.cumsum([0, *self.lengths]).astype(np.int64)
        self.tokens = self.ids(context)

    def ids(self, count: int) -> np.ndarray:
        vocab = self.bench.decoder.spec.vocab_size
        return self.rng.integers(0, vocab, count).astype(np.int32)

    def encode(self, blocks: list[np.ndarray], some: list[int]) -> list[Run]:
        """Runs that encode some blocks, with new text."""
        return [self.bench.run(self.ids(self.lengths[i]), blocks[i], 0, None, 0) for i in some]

    def context(self, blocks: list[np.ndarray]) -> Segments:
        """All blocks as segments of the event."""
        frames = list(zip(blocks, self.lengths, strict=True))
        distances = self.origins[-1] - self.origins[:-1]
        return frame_segments(frames, distances, self.bench.decoder.rope)

    def ask(self, blocks: list[np.ndarray], own: np.ndarray, changed: list[int]) -> float:
        """Milliseconds from the prompt to its first token on the host."""
        begun = time.perf_counter()
        event = self.tokens[-EVENT_TOKENS:]
        runs = self.encode(blocks, changed)
        runs.append(self.bench.run(event, own, 0, self.context(blocks), 1))
        int(self.bench.forward(build_step(runs))[-1].argmax())
        return (time.perf_counter() - begun) * 1e3

    def fill(self, blocks: list[np.ndarray]) -> None:
        """Encode all blocks, as many in a pass as the engine would."""
        per_pass = STEP_TOKENS // BLOCK_TOKENS
        for first in range(0, len(blocks), per_pass):
            some = list(range(first, min(first + per_pass, len(blocks))))
            self.bench.forward(build_step(self.encode(blocks, some)))

    def prefill(self, pages: np.ndarray) -> Tensor:
        """Logits [vocab] of the whole prompt under plain causal attention."""
        for first in range(0, len(self.tokens), STEP_TOKENS):
            tokens = self.tokens[first : first + STEP_TOKENS]
            done = first + len(tokens) == len(self.tokens)
            logits = self.bench.forward(
                build_step([self.bench.run(tokens, pages, first, None, int(done))])
            )
        return logits[0]


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Median wall time of calls that end on the host, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        function()
        times.append((time.perf_counter() - begun) * 1e3)
    return median(times[1:])


@dataclass(frozen=True)
class Exact:
    """The last logits [vocab] of a prompt, computed in float32 throughout.

    noise: 1 - cosine between them and Hugging Face's in the model's dtype
    """

    tokens: np.ndarray
    logits: Tensor
    noise: float


@dataclass(frozen=True)
class Beside:
    """One model in every form that is measured.

    captured: by CUDA graphs; eager: by the kernels given; plain: eager, by the captured kernels
    exact:    by number of tokens
    """

    model: PreTrainedModel
    captured: Bench
    eager: Bench
    plain: Bench
    exact: dict[int, Exact]


def load(name: str, kernels: Kernels, device: torch.device, smoke: bool) -> Beside:
    """Make a model and capture its passes; the pool holds one and a half of the longest context."""
    config = smaller(MODELS[name], **SMOKE_SIZES) if smoke else MODELS[name]
    dtype = torch.float32 if smoke else torch.bfloat16
    model = hugging_face(config, device, dtype)
    # On the toy, a prompt of 3,000 tokens would take minutes.
    exact = exact_logits(model, {n: min(n, 20) if smoke else n for n in (300, 3000)})
    decoder = decoder_of(model, kernels_for(device, "triton"))
    spec = decoder.spec
    pool = PagePool(
        200 if smoke else 3 * 32768 // 2 // PAGE_TOKENS,
        spec.num_layers,
        spec.num_kv_heads,
        spec.head_dim,
        dtype=dtype,
        device=device,
    )
    captured, plain = Bench(decoder, pool), Bench(decoder, pool)
    eager = Bench(Decoder(spec, decoder.weights, kernels), pool)
    taken = captured.capture(lambda done, total: print(f"graph {done}/{total}", file=sys.stderr))
    print(f"{name}: graphs captured in {taken:.1f} s", file=sys.stderr, flush=True)
    return Beside(model, captured, eager, plain, exact)


@torch.inference_mode()
def exact_logits(model: PreTrainedModel, lengths: dict[int, int]) -> dict[int, Exact]:
    """References for prompts of these lengths, by the names of the lengths."""
    copy = deepcopy(model).float()
    rng = np.random.default_rng(0)
    found = {}
    for name, length in lengths.items():
        tokens = rng.integers(0, model.config.vocab_size, length).astype(np.int32)
        exact, rounded = (last_logits(one, tokens) for one in (copy, model))
        found[name] = Exact(tokens, exact, cosine_distance(rounded, exact))
    del copy
    torch.cuda.empty_cache()
    return found


def last_logits(model: PreTrainedModel, tokens: np.ndarray) -> Tensor:
    """Hugging Face's logits [vocab] after a prompt."""
    prompt = torch.from_numpy(tokens.astype(np.int64)).to(model.device)[None]
    logits: Tensor = model(prompt, logits_to_keep=1, use_cache=False).logits[0, -1]
    return logits


def cosine_distance(a: Tensor, b: Tensor) -> float:
    """1 - cosine of two vectors."""
    return 1 - float(torch.nn.functional.cosine_similarity(a.double(), b.double(), 0))


def distance(bench: Bench, exact: Exact) -> float:
    """1 - cosine between the logits of a causal prefill and those in float32."""
    prompt = Prompt(bench, len(exact.tokens))
    prompt.tokens = exact.tokens
    with bench.pages(len(exact.tokens)) as (pages,):
        return cosine_distance(prompt.prefill(pages), exact.logits)


def ttft(bench: Bench, context: int, repeats: int) -> dict[str, float]:
    """Milliseconds to the first token: all cached, and one early block changed."""
    prompt = Prompt(bench, context)
    with bench.pages(*prompt.lengths, EVENT_TOKENS) as (*blocks, own):
        prompt.fill(blocks)
        ways: dict[str, list[int]] = {"cached_ms": []}
        if blocks:
            ways["changed_ms"] = [min(1, len(blocks) - 1)]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats + 1):
            for name, some in ways.items():
                times[name].append(prompt.ask(blocks, own, some))
    return {name: median(taken[1:]) for name, taken in times.items()}


def full_prefill(bench: Bench, context: int, repeats: int) -> float:
    """Milliseconds to the first token when everything is computed causally."""
    prompt = Prompt(bench, context)
    with bench.pages(context) as (pages,):
        return milliseconds(lambda: int(prompt.prefill(pages).argmax()), repeats)


@torch.inference_mode()
def hugging_face_prefill(model: PreTrainedModel, context: int, repeats: int) -> float:
    """The same by Hugging Face's forward with SDPA."""
    vocab = model.config.vocab_size
    ids = torch.randint(0, vocab, (1, context), device=model.device)
    return milliseconds(
        lambda: int(model(ids, logits_to_keep=1, use_cache=True).logits[0, -1].argmax()), repeats
    )


def talk(bench: Bench, context: int, count: int, tokens: int) -> list[float]:
    """Milliseconds of each step while ``count`` characters answer over the same blocks at once.

    Each has an event of its own, which the first step prefills, and ``tokens`` greedy tokens, which
    travel to the host one by one. Measured at the second time.
    """
    prompt = Prompt(bench, context)
    with bench.pages(*prompt.lengths, *[EVENT_TOKENS + tokens] * count) as held:
        blocks, owns = held[: len(prompt.lengths)], held[len(prompt.lengths) :]
        prompt.fill(blocks)
        segments = prompt.context(blocks)
        for _ in range(2):
            new = [prompt.ids(EVENT_TOKENS) for _ in owns]
            times, first = [], 0
            for _ in range(tokens):
                begun = time.perf_counter()
                runs = [
                    bench.run(some, own, first, segments, 1)
                    for some, own in zip(new, owns, strict=True)
                ]
                drawn = bench.forward(build_step(runs)).argmax(-1).cpu().numpy()
                times.append((time.perf_counter() - begun) * 1e3)
                first += len(new[0])
                new = list(drawn.astype(np.int32)[:, None])
    return times


def step_ms(times: list[float]) -> float:
    """Median time of the steps that are no prefill."""
    return median(times[1:])


def floor_ms(bench: Bench, context: int, gb_per_s: float) -> float:
    """Time to read all weights and the context's keys and values once."""
    weights = bench.decoder.weights
    matrices = [weights.head]
    for layer in weights.layers:
        matrices += [layer.qkv, layer.out, layer.gate_up, layer.down]
    read = sum(matrix.weight.nbytes for matrix in matrices)
    return (read + context * bench.pool.page_bytes / PAGE_TOKENS) / gb_per_s * 1e-6

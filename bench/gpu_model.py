"""A decoder with random weights beside Hugging Face's with the same: TTFT and decoding."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from gpu_prompt import EVENT_TOKENS, Bench, Prompt
from gpu_shapes import MODELS, SMOKE_SIZES, decoder_of, hugging_face, smaller
from torch import Tensor
from transformers import PreTrainedModel

from game_agent.blocks.pool import PagePool
from game_agent.model.decoder import Decoder
from game_agent.model.planner import build_step
from game_agent_kernels import PAGE_TOKENS, Kernels, kernels_for


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

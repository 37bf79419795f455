"""Tiny random checkpoints of every family, and the Hugging Face model as their oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

VOCAB = 320
SPECIALS = ("<|pad|>", "<|block|>", "<|event|>", "<|reply|>", "<|end|>")
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": {"factor": 8.0, "original_max_position_embeddings": 1024},
}


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and the bundled model's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in SPECIALS])
    return tokenizer


def make_checkpoint(
    folder: Path, family: str = "llama", *, rope: str = "default", seed: int = 0, **config: Any
) -> Path:
    """A checkpoint folder with random weights; ``config`` overrides the tiny defaults."""
    settings: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": VOCAB,
        "max_position_embeddings": 16384,
        "eos_token_id": 4,
        "rope_parameters": {"rope_type": rope, "rope_theta": 10000.0, **ROPES[rope]},
    } | config
    if family == "mistral":
        settings.setdefault("sliding_window", None)
    model = random_model(AutoConfig.for_model(family, **settings), seed)
    model.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def random_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model with weights in which mistakes show in the logits."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than the usual initialisation; norms and biases away from 1 and 0, so that
            # leaving one out shows.
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
            else:
                parameter.normal_(0, 0.15)
        if not model.config.tie_word_embeddings:
            model.lm_head.weight[SPECIALS.index("<|end|>")] = 0  # so that greedy replies go on
    return model


def oracle(folder: Path) -> PreTrainedModel:
    """The Hugging Face model of a checkpoint, its rotary angles computed in float64.

    Hugging Face multiplies positions and frequencies in float32, which is off by 5e-4 at 8K
    positions; here only its angles are replaced, not its attention.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    rotary = model.model.rotary_emb
    scaling = rotary.attention_scaling
    frequencies = rotary.inv_freq.double()

    def exact(x: Tensor, position_ids: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat([angles, angles], -1)
        return (angles.cos() * scaling).float(), (angles.sin() * scaling).float()

    rotary.forward = exact
    return model


@torch.inference_mode()
def oracle_logits(
    model: PreTrainedModel, blocks: Sequence[Sequence[int]], event: Sequence[int], mode: str
) -> Tensor:
    """Logits [event, vocab] of the concatenated prompt at its global positions.

    ``block``: the paper's mask (blocks see themselves, the event sees all); ``full``: causal.
    """
    ids = torch.tensor([t for block in [*blocks, event] for t in block])
    owner = torch.tensor([i for i, block in enumerate([*blocks, event]) for _ in block])
    seen = torch.ones(len(ids), len(ids)).tril().bool()
    if mode == "block":
        seen &= (owner[:, None] == owner[None, :]) | (owner == len(blocks))[:, None]
    mask = torch.zeros(len(ids), len(ids)).masked_fill_(~seen, torch.finfo(torch.float32).min)
    out = model(
        input_ids=ids[None],
        attention_mask=mask[None, None],
        position_ids=torch.arange(len(ids))[None],
        logits_to_keep=len(event),
    )
    return out.logits[0]

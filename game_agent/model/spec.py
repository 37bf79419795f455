"""What a model is: the figures of a checkpoint's ``config.json``, for the Llama-shaped families."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from game_agent.errors import ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class RopeSpec:
    """Parameters of the rotary embedding, as in a config's ``rope_parameters``."""

    rope_type: str
    theta: float
    rotary_dim: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class ModelSpec:
    """Sizes and switches of one decoder.

    stop_token_ids: all that end a reply; first the one that a reply is trained to end with

    ``max_context_tokens`` is the config's ``max_position_embeddings``, or its sliding window where
    that is smaller: within the window, windowed and full attention are the same.
    """

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_context_tokens: int
    norm_eps: float
    rope: RopeSpec
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied_embeddings: bool
    stop_token_ids: tuple[int, ...]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in all layers, at 4 bytes an element."""
        return self.num_layers * self.num_kv_heads * self.head_dim * 2 * 4


def load_spec(folder: Path) -> ModelSpec:
    """Read ``config.json`` (and ``generation_config.json``) of a checkpoint folder.

    Raises :class:`ModelError` when it is missing, not JSON, lacks a key, or asks for something that
    the decoder does not do.
    """
    config = read_json(folder / "config.json")
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"{folder / 'config.json'}: model_type {family!r} is not supported; "
            f"supported are {', '.join(FAMILIES)}"
        )
    reader = _Reader(folder / "config.json", config)
    heads = reader.count("num_attention_heads")
    hidden = reader.count("hidden_size")
    kv_heads = reader.count("num_key_value_heads", heads)
    head_dim = reader.count("head_dim", 128 if family == "qwen3" else hidden // heads)
    if heads % kv_heads:
        raise reader.error(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    if config.get("quantization_config"):
        raise reader.error(
            "quantized weights are not supported; give the checkpoint that was quantized, and set "
            "weights='int8' for less memory"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise reader.error(f"hidden_act {config['hidden_act']!r} is not supported, only 'silu'")
    bias = bool(config.get("attention_bias", False))
    return ModelSpec(
        model_type=family,
        hidden_size=hidden,
        num_layers=reader.count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=reader.count("intermediate_size"),
        vocab_size=reader.count("vocab_size"),
        max_context_tokens=_max_context(config, reader),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope=_rope(config, reader, head_dim),
        qkv_bias=family == "qwen2" or bias,
        out_bias=family in ("llama", "qwen3") and bias,
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        stop_token_ids=_stop_ids(folder, config),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; :class:`ModelError` says what is wrong with the file."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path} does not exist; give a Hugging Face checkpoint folder "
            "(config.json, tokenizer.json, *.safetensors)"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return value


class _Reader:
    """Takes positive integers out of a config, naming the file in every error."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._config = config

    def error(self, what: str) -> ModelError:
        return ModelError(f"{self._path}: {what}")

    def count(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"{key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(f"{key} must be a positive integer, not {value!r}")
        return value


def _max_context(config: Mapping[str, Any], reader: _Reader) -> int:
    longest = reader.count("max_position_embeddings")
    window = config.get("sliding_window")
    # qwen2 and qwen3 name a window that they do not use unless told to.
    in_use = config.get("use_sliding_window", config["model_type"] == "mistral")
    return min(longest, window) if window and in_use else longest


def _rope(config: Mapping[str, Any], reader: _Reader, head_dim: int) -> RopeSpec:
    """``rope_parameters`` of transformers 5, or ``rope_scaling`` and ``rope_theta`` of earlier."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    theta = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    if rope_type in ("dynamic", "longrope"):
        raise reader.error(
            f"rope type {rope_type!r} changes its frequencies with the length of the prompt, so "
            "cached blocks would not fit; use 'yarn' or 'linear' with a fixed factor"
        )
    if rope_type not in ("default", "linear", "llama3", "yarn"):
        raise reader.error(f"rope type {rope_type!r} is not supported")
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    parameters.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return RopeSpec(rope_type, float(theta), int(head_dim * partial), parameters)


def _stop_ids(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """What ends a reply, the token that ``config.json`` names first."""
    path = folder / "generation_config.json"
    sources = {folder / "config.json": config, path: read_json(path) if path.exists() else {}}
    ids: dict[int, None] = {}
    for source, values in sources.items():
        value = values.get("eos_token_id")
        for token in value if isinstance(value, list) else [] if value is None else [value]:
            if isinstance(token, bool) or not isinstance(token, int):
                raise ModelError(f"{source}: eos_token_id must be a token id or a list of them")
            ids[token] = None
    return tuple(ids)

"""The trained network as a Hugging Face checkpoint folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from game_agent.training.network import Network, NetworkSize
from game_agent.training.tokens import END, PAD, SPECIALS


def export(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``config.json``, fp16 weights and the tokenizer; LlamaForCausalLM loads them.

    Files are put into place when all of them are whole.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    weights = {
        name: weight.detach().to("cpu", torch.float16).contiguous()
        for name, weight in network.state_dict().items()
    }
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    _write_json(part / "config.json", _config(network.size))
    _write_json(part / "generation_config.json", {"eos_token_id": END, "pad_token_id": PAD})
    tokenizer.save(str(part / "tokenizer.json"))
    _write_json(part / "tokenizer_config.json", _tokenizer_config(network.size))
    folder.mkdir(exist_ok=True)
    # Where it is, so is all else.
    for path in sorted(part.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
    part.rmdir()


def load_exported(folder: Path) -> tuple[Network, Tokenizer]:
    """(network in float32, tokenizer) that :func:`export` wrote."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    size = NetworkSize(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        intermediate_size=config["intermediate_size"],
        rope_theta=config["rope_parameters"]["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        max_positions=config["max_position_embeddings"],
    )
    network = Network(size)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network, Tokenizer.from_file(str(folder / "tokenizer.json"))


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _tokenizer_config(size: NetworkSize) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": SPECIALS[END],
        "pad_token": SPECIALS[PAD],
        "model_max_length": size.max_positions,
        "clean_up_tokenization_spaces": False,
    }


def _config(size: NetworkSize) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size.vocab_size,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_kv_heads,
        "head_dim": size.head_dim,
        "intermediate_size": size.intermediate_size,
        "hidden_act": "silu",
        "max_position_embeddings": size.max_positions,
        "rms_norm_eps": size.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_theta},
        "rope_theta": size.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "dtype": "float16",
    }

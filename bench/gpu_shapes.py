"""Models of known shapes with random weights: Hugging Face's, and the runtime's decoder of one."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from game_agent.model.decoder import Decoder
from game_agent.model.spec import load_spec
from game_agent.model.weights import LayerWeights, Weights
from game_agent_kernels import Kernels
from game_agent_kernels.linear.reference import pack_linear

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

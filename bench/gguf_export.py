"""A llama checkpoint as a GGUF file for llama.cpp."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from safetensors.torch import load_file
from torch import Tensor

from game_agent.model.spec import ModelSpec, load_spec

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export(folder: Path, path: Path, weights: GGMLQuantizationType) -> None:
    """Write a llama checkpoint as GGUF, without a vocabulary: token ids are enough.

    weights: of the matrices, F32 or BF16; norms are float32
    """
    spec = load_spec(folder)
    tensors = load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(spec.num_layers)
    writer.add_context_length(2 * spec.max_context_tokens)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.rope.rotary_dim)
    writer.add_rope_freq_base(spec.rope.theta)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(0)

    def add(name: str, tensor: Tensor) -> None:
        kind = weights if tensor.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(as_array(tensor), kind), raw_dtype=kind)

    add("token_embd.weight", tensors["model.embed_tokens.weight"])
    add("output_norm.weight", tensors["model.norm.weight"])
    add("output.weight", tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]))
    for i in range(spec.num_layers):
        for theirs, ours in NAMES.items():
            tensor = tensors[f"model.layers.{i}.{theirs}.weight"]
            add(f"blk.{i}.{ours}.weight", interleaved(tensor, ours, spec))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(tensor: Tensor, name: str, spec: ModelSpec) -> Tensor:
    """llama.cpp rotates neighbouring dimensions, Hugging Face halves: reorder q and k rows."""
    heads = {"attn_q": spec.num_heads, "attn_k": spec.num_kv_heads}.get(name)
    if heads is None:
        return tensor
    split = tensor.view(heads, 2, spec.head_dim // 2, tensor.shape[1])
    return split.transpose(1, 2).reshape(tensor.shape)


def as_array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return tensor.float().contiguous().numpy()

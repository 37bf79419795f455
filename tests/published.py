"""Folders like those of published block-fine-tuned models: their files, keys and names, in small.

Configurations are those that the models' pages on the Hub show; sizes that only make a model large
are replaced. Tokenizers have the published special tokens, in their order, after the words of a
small vocabulary. Tulu3-Block-FT (arXiv 2409.15355) was trained from Tulu 3 (Llama 3.1, 8B);
the hxia7 models from Llama-3.2-1B and Qwen3-8B.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoints import random_model
from families import FAMILIES, TEXTS
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
_QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
)
_QWEN_MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # "special": false there
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": "<|begin_of_text|>",
    "eos_token_id": "<|end_of_text|>",
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
_LLAMA3_ROPE = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


@dataclass(frozen=True)
class Published:
    """What is published. Token ids in ``config`` and ``generation`` are given by name.

    specials:   added tokens that tokenizer.json marks as special, after the words
    marks:      added tokens that it does not
    num_spare:  rows of the embedding table that no token has
    """

    name: str
    prompt_format: str
    config: dict[str, Any]
    generation: dict[str, Any]
    specials: tuple[str, ...]
    template: str | None
    eos_token: str
    stops: tuple[str, ...]
    marks: tuple[str, ...] = ()
    num_spare: int = 0

    def save(self, root: Path) -> Path:
        """A folder of that name with all files; weights in bfloat16, in several shards."""
        folder = root / self.name
        folder.mkdir(parents=True)
        tokenizer = self._tokenizer()
        tokenizer.save(str(folder / "tokenizer.json"))
        config = _numbered(self.config, tokenizer) | SMALL
        config["vocab_size"] = tokenizer.get_vocab_size() + self.num_spare
        values = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
        model = random_model(AutoConfig.for_model(config["model_type"], **values))
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
        for name, content in {
            "config.json": config,  # with the published keys, which transformers 5 would rename
            "generation_config.json": _numbered(self.generation, tokenizer),
            "tokenizer_config.json": self._tokenizer_config(tokenizer),
        }.items():
            (folder / name).write_text(json.dumps(content, indent=2), "utf-8")
        return folder

    def _tokenizer(self) -> Tokenizer:
        is_qwen = self.config["model_type"] == "qwen3"
        tokenizer = Tokenizer(models.BPE(ignore_merges=not is_qwen))
        if is_qwen:
            tokenizer.normalizer = normalizers.NFC()
        split = Regex(_WORDS % ("1" if is_qwen else "1,3"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(split, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(TEXTS, trainer)
        tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in self.specials])
        tokenizer.add_tokens([AddedToken(s, normalized=False) for s in self.marks])
        if not is_qwen:
            bos = self.specials[0]
            single = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
            )
            tokenizer.post_processor = processors.Sequence(
                [processors.ByteLevel(trim_offsets=False), single]
            )
        return tokenizer

    def _tokenizer_config(self, tokenizer: Tokenizer) -> dict[str, Any]:
        added = tokenizer.get_added_tokens_decoder()
        flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
        return {
            "added_tokens_decoder": {
                str(token_id): {"content": t.content} | {f: getattr(t, f) for f in flags}
                for token_id, t in sorted(added.items())
            },
            "bos_token": None if self.marks else self.specials[0],
            "eos_token": self.eos_token,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 131072,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **({} if self.template is None else {"chat_template": self.template}),
        }


def _numbered(values: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """``values`` with token names replaced by ids where ids are meant."""

    def number(value: Any) -> Any:
        return tokenizer.token_to_id(value) if isinstance(value, str) else value

    return {
        key: value
        if not key.endswith("_token_id")
        else [number(v) for v in value]
        if isinstance(value, list)
        else number(value)
        for key, value in values.items()
    }


PUBLISHED = (
    Published(
        name="Tulu3-Block-FT",
        prompt_format="tulu3-block",
        config=_LLAMA
        | {
            "num_hidden_layers": 32,
            "rope_scaling": {"factor": 8.0, **_LLAMA3_ROPE},
            "tie_word_embeddings": False,
            "pad_token_id": "<pad>",
        },
        generation={
            "_from_model_config": True,
            "bos_token_id": "<|begin_of_text|>",
            "eos_token_id": "<|end_of_text|>",
        },
        specials=(*_LLAMA_SPECIALS, "<pad>"),
        template=FAMILIES["unigram"].template,  # Tulu's
        eos_token="<|end_of_text|>",
        stops=("<|end_of_text|>",),
        num_spare=7,  # 128,257 tokens, 128,264 rows
    ),
    Published(
        name="Llama-3.2-1B-block-FT",
        prompt_format="block-ft",
        config=_LLAMA
        | {
            "head_dim": 24,  # 64 there, not hidden_size / num_attention_heads here
            "rope_scaling": {"factor": 32.0, **_LLAMA3_ROPE},
            "tie_word_embeddings": True,
        },
        generation={
            "bos_token_id": "<|begin_of_text|>",
            "do_sample": True,
            "eos_token_id": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
            "temperature": 0.6,
            "top_p": 0.9,
        },
        specials=_LLAMA_SPECIALS,
        template=None,
        eos_token="<|end_of_text|>",
        stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    Published(
        name="Qwen3-8B-Block-FT",
        prompt_format="block-ft",
        config={
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": "<|endoftext|>",
            "eos_token_id": "<|im_end|>",
            "head_dim": 24,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": 40960,
            "max_window_layers": 36,
            "model_type": "qwen3",
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
        },
        generation={
            "bos_token_id": "<|endoftext|>",
            "do_sample": True,
            "eos_token_id": ["<|im_end|>", "<|endoftext|>"],
            "pad_token_id": "<|endoftext|>",
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
        },
        specials=_QWEN_SPECIALS,
        marks=_QWEN_MARKS,
        template=FAMILIES["chatml"].template,
        eos_token="<|im_end|>",
        stops=("<|im_end|>", "<|endoftext|>"),
        num_spare=267,  # 151,669 tokens, 151,936 rows
    ),
)

"""Tokenizers in the styles of four families, tiny, with their special tokens and chat templates.

The templates do what those of the families do (strip, demand roles, write dates, think) in as few
words as that takes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from game_agent.text import tokenizer as text

TEXTS = [
    "You are Mira, the keeper of the inn. Be brief.",
    "places / inn: rooms free: 3; menu: ale, stew.",
    "Player: What is on the menu today?\nMira: Ale and stew.",
    "system\nuser\nassistant\n- Title: < | / > [ ] 0 x A B s p a d start end of text",
]


@dataclass(frozen=True)
class Family:
    """A tokenizer, its special tokens, and what its checkpoint says of them."""

    name: str
    backend: Tokenizer
    specials: tuple[str, ...]
    template: str
    config: dict[str, object] = field(default_factory=dict)

    @cached_property
    def tokenizer(self) -> text.Tokenizer:
        return text.Tokenizer(self.backend.to_str())

    def save(self, folder: Path) -> Path:
        """What a checkpoint folder holds of it."""
        folder.mkdir(exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.config), encoding="utf-8")
        (folder / "chat_template.jinja").write_text(self.template, encoding="utf-8")
        return folder


def _byte_level(specials: tuple[str, ...], *, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in specials],
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _words(specials: tuple[str, ...]) -> Tokenizer:
    """Special tokens are words of the vocabulary as well, and words are taken whole."""
    tokenizer = _byte_level(specials, ignore_merges=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\S+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_fallback(specials: tuple[str, ...]) -> Tokenizer:
    """SentencePiece's BPE, as Llama 2 and Mistral have it."""
    letters = sorted(set("".join(TEXTS).replace(" ", "▁").replace("\n", "")))
    names = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocab = {name: token for token, name in enumerate(names)}
    tokenizer = Tokenizer(
        models.BPE(vocab, [], unk_token=specials[0], fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in specials])
    return tokenizer


def _unigram(specials: tuple[str, ...]) -> Tokenizer:
    """A Unigram model has all names among its words, those of special tokens and bytes too."""
    letters = sorted(set("".join(TEXTS).replace(" ", "▁").replace("\n", "")))
    names = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocab = [(name, -1.0 if name in specials else -9.0) for name in names]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in specials])
    return tokenizer


_CHATML = """{%- if messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- else -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages[0 if messages[0].role != 'system' else 1:] -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}"""
_LLAMA3 = """{{- bos_token }}
{%- if strftime_now is defined %}{% set today = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{% set system_message = "" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\nToday Date: " + today + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
_INST = """{{- bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""
_TULU3 = """{% for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
_LLAMA = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
_SENTENCEPIECE = ("<unk>", "<s>", "</s>", "<pad>")
FAMILIES = {
    family.name: family
    for family in (
        Family("chatml", _byte_level(_QWEN), _QWEN, _CHATML, {"eos_token": "<|im_end|>"}),
        Family(
            "llama-3",
            _words(_LLAMA),
            _LLAMA,
            _LLAMA3,
            {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"}},
        ),
        Family(
            "mistral",
            _byte_fallback(_SENTENCEPIECE),
            _SENTENCEPIECE,
            _INST,
            {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None},
        ),
        Family("unigram", _unigram(_SENTENCEPIECE), _SENTENCEPIECE, _TULU3, {"eos_token": "</s>"}),
    )
}

"""The bundled model's own tokenizer: byte-level BPE in which each number up to 999 is one token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ("<|pad|>", "<|block|>", "<|event|>", "<|reply|>", "<|end|>")
PAD, BLOCK, EVENT, REPLY, END = range(len(SPECIALS))
# Words with their space, marks, white space, and digits in groups of at most three.
SPLIT = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of ``vocab_size`` ≥ 1,300 tokens that loads from a plain ``tokenizer.json``.

    Its merges come from ``texts``; those of digits are put in by rule.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    numbers, merges = _number_merges()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(numbers),
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_without_digits(text) for text in texts), trainer)
    definition: dict[str, Any] = json.loads(tokenizer.to_str())
    vocab = definition["model"]["vocab"]
    for number in numbers:
        vocab[number] = len(vocab)
    definition["model"]["merges"] += merges
    return Tokenizer.from_str(json.dumps(definition))


def _without_digits(text: str) -> str:
    return "".join(" " if c.isdigit() else c for c in text)


def _number_merges() -> tuple[list[str], list[list[str]]]:
    """Tokens 10 … 999, and every pair of smaller ones that makes one of them.

    Three digits are reached from either pair of neighbours, whichever is merged first.
    """
    numbers = [str(n) for n in range(10, 1000)]
    merges = []
    for number in numbers:
        for at in range(1, len(number)):
            left, right = number[:at], number[at:]
            if len(right) == 1 or right[0] != "0":
                merges.append([left, right])
    return numbers, merges


def plain_copy(tokenizer: Tokenizer) -> Tokenizer:
    """The same without special tokens, so that no text can become one."""
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(definition))

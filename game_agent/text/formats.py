"""Prompt formats: how blocks, turns and events become tokens, and where the seams lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from game_agent.text.tokenizer import Tokenizer

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Special:
    """A special token in a template, by its content."""

    content: str


Piece = str | Special
Around = tuple[tuple[Piece, ...], tuple[Piece, ...]]
# What a template writes in letters and a model takes for a role: <|user|>, [INST], <<SYS>>.
_MARK = re.compile(r"<\|[^\s<>|]+\|>|<{1,2}/?[^\s<>|]+>{1,2}|\[/?[A-Z_]{2,}\]")


@dataclass(frozen=True)
class PromptFormat:
    """Templates around texts; what lies between is player or world text and stays inert.

    first, block:  before and after every block's text; ``first`` is for block 0
    event:         before and after the event's text; the reply follows
    stop:          special tokens that end a reply, besides those of the model's configuration
    before_value:  what stands before a bare value: an option, or a text in an action's JSON
    """

    name: str
    first: Around
    block: Around
    event: Around
    stop: tuple[str, ...] = ()
    before_value: str = ""

    @property
    def pieces(self) -> Iterator[Piece]:
        return (p for part in (self.first, self.block, self.event) for side in part for p in side)

    @property
    def specials(self) -> set[str]:
        """All special tokens that the templates and the stop rule name."""
        return {p.content for p in self.pieces if isinstance(p, Special)} | set(self.stop)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """What stands for a role without being a special token, so that texts must not say it."""
        literals = (p for p in self.pieces if isinstance(p, str))
        return tuple(sorted({mark for text in literals for mark in _MARK.findall(text)}))

    def with_prefix(self, prefix: str) -> PromptFormat:
        """The format with a text before block 0, such as ``[Block-Attention]``."""
        before, after = self.first
        return replace(self, first=((prefix, *before), after)) if prefix else self

    def text(self, blocks: Sequence[str], event: str) -> str:
        """The prompt as text, as a chat template would write it."""
        arounds = [self.first, *[self.block] * (len(blocks) - 1), self.event]
        return "".join(
            piece.content if isinstance(piece, Special) else piece
            for (before, after), text in zip(arounds, (*blocks, event), strict=True)
            for piece in (*before, text, *after)
        )


# A small model copies tokens, and "bread" after a quotation mark would be another one than that of
# " bread" in the text: values are written with the space that words have there.
PLAIN = PromptFormat(
    name="plain",
    first=((Special("<|block|>"),), ()),
    block=((Special("<|block|>"),), ()),
    event=((Special("<|event|>"),), (Special("<|reply|>"),)),
    stop=("<|end|>",),
    before_value=" ",
)
CHATML = PromptFormat(
    name="chatml",
    first=((Special("<|im_start|>"), "system\n"), ("\n",)),
    block=((), ("\n",)),
    event=(
        (Special("<|im_end|>"), "\n", Special("<|im_start|>"), "user\n"),
        (Special("<|im_end|>"), "\n", Special("<|im_start|>"), "assistant\n"),
    ),
    stop=("<|im_end|>",),
)


def _llama3_role(role: str) -> tuple[Piece, ...]:
    return (Special("<|start_header_id|>"), role, Special("<|end_header_id|>"), "\n\n")


# Its template strips the ends of a message, so lines end before a block and not after it.
LLAMA3 = PromptFormat(
    name="llama-3",
    first=((Special("<|begin_of_text|>"), *_llama3_role("system")), ()),
    block=(("\n",), ()),
    event=(
        (Special("<|eot_id|>"), *_llama3_role("user")),
        (Special("<|eot_id|>"), *_llama3_role("assistant")),
    ),
    stop=("<|eot_id|>",),
)
# What Tulu3-Block-FT was trained on (arXiv 2409.15355): an instruction, passages that are items of
# a list, and the question, all of it one turn. Roles are letters there, not special tokens.
TULU3_BLOCK = PromptFormat(
    name="tulu3-block",
    first=(("<|user|>\n",), ("\n\n",)),
    block=(("- ",), ("\n",)),
    event=(("\n\n",), ("\n<|assistant|>\n",)),
)
# The hxia7 models (Qwen3-8B-block-FT, Llama-3.2-1B-block-FT): the same, under a heading.
BLOCK_FT = replace(TULU3_BLOCK, name="block-ft").with_prefix("[Block-Attention]")
# For tokenizers without any of the tokens above: nothing but text and line ends.
TEXT = PromptFormat(name="text", first=((), ("\n",)), block=((), ("\n",)), event=(("\n",), ("\n",)))
FORMATS = {f.name: f for f in (PLAIN, CHATML, LLAMA3, TULU3_BLOCK, BLOCK_FT, TEXT)}


class PromptEncoder:
    """Texts to token ids in one format with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, prompt_format: PromptFormat) -> None:
        self.tokenizer = tokenizer
        self.format = prompt_format

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        ids = (self.tokenizer.special(s) for s in self.format.stop)
        return tuple(i for i in ids if i is not None)

    @property
    def highest(self) -> int:
        """The highest id in any prompt."""
        ids = (self.tokenizer.special(s) for s in self.format.specials)
        return max(self.tokenizer.highest, *(-1 if i is None else i for i in ids), -1)

    def block(self, text: str, *, first: bool = False) -> Ints:
        """Token ids [n ≥ 1] int32 of a block; ``first`` for block 0 of a prompt."""
        return self._wrap(text, self.format.first if first else self.format.block)

    def event(self, text: str) -> Ints:
        """Token ids [n ≥ 1] int32 of an event, up to where the reply begins."""
        return self._wrap(text, self.format.event)

    def _wrap(self, text: str, around: Around) -> Ints:
        before, after = around
        return np.array(list(self._ids((*before, self._defused(text), *after))), np.int32)

    def _ids(self, pieces: Iterable[Piece]) -> Iterator[int]:
        """What stands between two special tokens is encoded as one: a tokenizer may merge it."""
        plain = ""
        for piece in (*pieces, None):
            if isinstance(piece, str):
                plain += piece
                continue
            yield from self.tokenizer.encode(plain)
            plain = ""
            if piece is not None and (token := self.tokenizer.special(piece.content)) is not None:
                yield token

    def _defused(self, text: str) -> str:
        """``text`` with a space inside whatever the format writes for a role."""
        marks = self.format.marks
        if not marks:
            return text
        # Letters that the tokenizer takes for others ("＜" for "<") must not hide a mark.
        normal = self.tokenizer.normalized(text)
        if not any(mark in normal for mark in marks):
            return text
        for mark in marks:
            normal = normal.replace(mark, f"{mark[0]} {mark[1:]}")
        return normal

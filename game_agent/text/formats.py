"""Prompt formats: how blocks, turns and events become tokens, and where the seams lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from game_agent.errors import ModelError
from game_agent.text.tokenizer import Tokenizer

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Special:
    """A special token in a template, by its content."""

    content: str


Piece = str | Special


@dataclass(frozen=True)
class PromptFormat:
    """Templates around texts; what lies in ``{}`` is player or world text and stays inert.

    first, block:  before and after every block's text; ``first`` is for block 0
    event:         before and after the event's text; the reply follows
    stop:          special tokens that end a reply
    """

    name: str
    first: tuple[tuple[Piece, ...], tuple[Piece, ...]]
    block: tuple[tuple[Piece, ...], tuple[Piece, ...]]
    event: tuple[tuple[Piece, ...], tuple[Piece, ...]]
    stop: tuple[str, ...]

    @property
    def specials(self) -> set[str]:
        """All special tokens that the templates and the stop rule name."""
        pieces = (p for part in (self.first, self.block, self.event) for side in part for p in side)
        return {p.content for p in pieces if isinstance(p, Special)} | set(self.stop)


PLAIN = PromptFormat(
    name="plain",
    first=((Special("<|block|>"),), ()),
    block=((Special("<|block|>"),), ()),
    event=((Special("<|event|>"),), (Special("<|reply|>"),)),
    stop=("<|end|>",),
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
LLAMA3 = PromptFormat(
    name="llama-3",
    first=(
        (
            Special("<|begin_of_text|>"),
            Special("<|start_header_id|>"),
            "system",
            Special("<|end_header_id|>"),
            "\n\n",
        ),
        ("\n",),
    ),
    block=((), ("\n",)),
    event=(
        (
            Special("<|eot_id|>"),
            Special("<|start_header_id|>"),
            "user",
            Special("<|end_header_id|>"),
            "\n\n",
        ),
        (
            Special("<|eot_id|>"),
            Special("<|start_header_id|>"),
            "assistant",
            Special("<|end_header_id|>"),
            "\n\n",
        ),
    ),
    stop=("<|eot_id|>",),
)
# For tokenizers without any of the tokens above: nothing but text and line ends.
TEXT = PromptFormat(
    name="text", first=((), ("\n",)), block=((), ("\n",)), event=(("\n",), ("\n",)), stop=()
)
FORMATS = {f.name: f for f in (PLAIN, CHATML, LLAMA3, TEXT)}


def format_for(tokenizer: Tokenizer, name: str | None = None) -> PromptFormat:
    """The named format, or the first whose special tokens the tokenizer has.

    Raises :class:`ModelError` for an unknown name or one whose tokens are missing.
    """
    if name is not None and name not in FORMATS:
        raise ModelError(f"no prompt format {name!r}; there are {', '.join(FORMATS)}")
    for candidate in [FORMATS[name]] if name else FORMATS.values():
        missing = [s for s in sorted(candidate.specials) if tokenizer.special(s) is None]
        if not missing:
            return candidate
    raise ModelError(f"the tokenizer lacks {', '.join(missing)}, which format {name!r} needs")


class PromptEncoder:
    """Texts to token ids in one format with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, prompt_format: PromptFormat) -> None:
        self.tokenizer = tokenizer
        self.format = prompt_format

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        ids = (self.tokenizer.special(s) for s in self.format.stop)
        return tuple(i for i in ids if i is not None)

    def block(self, text: str, *, first: bool = False) -> Ints:
        """Token ids [n ≥ 1] int32 of a block; ``first`` for block 0 of a prompt."""
        return self._wrap(text, self.format.first if first else self.format.block)

    def event(self, text: str) -> Ints:
        """Token ids [n ≥ 1] int32 of an event, up to where the reply begins."""
        return self._wrap(text, self.format.event)

    def _wrap(self, text: str, around: tuple[tuple[Piece, ...], tuple[Piece, ...]]) -> Ints:
        before, after = around
        ids = [*self._ids(before), *self.tokenizer.encode(text), *self._ids(after)]
        return np.array(ids, np.int32)

    def _ids(self, pieces: Iterable[Piece]) -> Iterable[int]:
        for piece in pieces:
            if isinstance(piece, str):
                yield from self.tokenizer.encode(piece)
            elif (token := self.tokenizer.special(piece.content)) is not None:
                yield token

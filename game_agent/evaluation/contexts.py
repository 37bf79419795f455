"""A prompt that is one text, as benchmarks write it, cut into blocks and an event.

In block mode the text is cut by the rules that training data is cut by (``text/segmenting.py``):
few-shot examples and paragraphs become blocks, the last piece is the event and sees all of them. Of
a rendered chat each message is a block; a lone question is cut itself. In other modes the text is
encoded as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Tokenizer

from game_agent.errors import InvalidInput, ModelError
from game_agent.text.chat_template import ChatTemplate, Message
from game_agent.text.segmenting import MAX_BLOCKS, segment

Ids = tuple[int, ...]
CHAIN_TOKENS = 64  # where texts are cut in full mode, so that equal beginnings are encoded once


@dataclass(frozen=True)
class Context:
    """Token ids of blocks, and [n ≥ 1] of the event behind them."""

    blocks: tuple[Ids, ...]
    event: Ids

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.blocks)) + len(self.event)

    def last(self, num_tokens: int) -> Context:
        """Without the beginning, so that ``num_tokens`` ≥ 1 are left at most."""
        surplus = self.num_tokens - num_tokens
        blocks = []
        for block in self.blocks:
            if surplus < len(block):
                blocks.append(block[max(0, surplus) :])
            surplus -= min(max(0, surplus), len(block))
        return Context(tuple(blocks), self.event[max(0, surplus) :])


def chain(ids: Ids) -> Context:
    """``ids`` [n ≥ 1] for full mode, in which it does not matter where they are cut."""
    cut = (len(ids) - 1) // CHAIN_TOKENS * CHAIN_TOKENS
    blocks = tuple(ids[at : at + CHAIN_TOKENS] for at in range(0, cut, CHAIN_TOKENS))
    return Context(blocks, ids[cut:])


class Contexts:
    """Texts to contexts, with one tokenizer. Names of special tokens in texts are such tokens.

    is_cut:     for block mode
    max_blocks: of a text, besides its event
    add_bos:    whether a text begins with what the tokenizer puts before one; None: as it does
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None = None,
        *,
        is_cut: bool,
        max_blocks: int = MAX_BLOCKS,
        add_bos: bool | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._is_cut = is_cut
        self._max_blocks = max_blocks
        self._chats: dict[str, list[str]] = {}
        self.bos = () if add_bos is False else _leading(tokenizer)

    def encode(self, text: str) -> Ids:
        """Token ids of a text that begins a prompt."""
        name = "" if not self.bos else self._tokenizer.id_to_token(self.bos[0])
        bos = () if name and text.startswith(name) else self.bos
        return (*bos, *self._ids(text))

    def context(self, text: str) -> Context:
        """The context that ``text``, which is not empty, gives."""
        return self.pair(text, "")[0]

    def pair(self, text: str, continuation: str) -> tuple[Context, Ids]:
        """The context of ``text``, which is not empty, and the ids of what continues it.

        White space at the end of ``text`` is the continuation's, and its last piece is encoded
        together with the continuation, as in lm-evaluation-harness.
        """
        *before, last = self._pieces(text)
        if continuation and (stripped := last.rstrip()):
            last, continuation = stripped, last[len(stripped) :] + continuation
        encode = self._ids if before else self.encode
        event, whole = encode(last), encode(last + continuation)
        following = whole[len(event) :]
        if not self._is_cut:
            return chain(event), following
        first, rest = before[:1], before[1:]
        blocks = [*map(self.encode, first), *map(self._ids, rest)]
        return Context(tuple(blocks), event), following

    def render(self, messages: Sequence[Message], *, is_question: bool) -> str:
        """A chat as text: up to where a reply begins, or up to the end of the last message.

        Raises :class:`InvalidInput` without a template, :class:`ModelError` where it fails.
        """
        if self._template is None:
            raise InvalidInput("the checkpoint has no chat template to apply")
        text = self._template.render(messages, is_question=is_question)
        content = messages[-1]["content"].strip()
        if not is_question and content in text:
            text = text[: text.rindex(content) + len(content)]
        self._chats[text] = self._cut_chat(text, messages)
        return text

    def _pieces(self, text: str) -> list[str]:
        """At least one; joined they are ``text``."""
        if not self._is_cut:
            return [text]
        return self._chats.get(text) or segment(text, self._max_blocks + 1)

    def _cut_chat(self, text: str, messages: Sequence[Message]) -> list[str]:
        """A block for each message before the last, which is the event.

        A lone question is cut itself, as in the paper's data.
        """
        cuts = [0]
        for index, message in enumerate(messages[:-1], 1):
            cuts.append(self._end(text, messages[:index], message["content"].strip(), cuts[-1]))
        content = messages[-1]["content"].strip()
        if all(message["role"] == "system" for message in messages[:-1]) and content in text:
            at = text.rindex(content)
            for piece in segment(content, max(1, self._max_blocks + 2 - len(cuts)))[:-1]:
                at += len(piece)
                cuts.append(at)
        return [text[start:end] for start, end in pairwise([*cuts, len(text)]) if start < end]

    def _end(self, text: str, messages: Sequence[Message], content: str, start: int) -> int:
        """Where the last of ``messages`` ends: as the template ends them, or behind its content."""
        assert self._template is not None
        with suppress(ModelError):
            before = self._template.render(messages, is_question=False)
            if text.startswith(before):
                return len(before)
        at = text.find(content, start)
        return start if at < 0 else at + len(content)

    def _ids(self, text: str) -> Ids:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _leading(tokenizer: Tokenizer) -> Ids:
    """The special tokens that the tokenizer puts before a text."""
    encoding = tokenizer.encode("a")
    count = next(i for i, special in enumerate(encoding.special_tokens_mask) if not special)
    return tuple(encoding.ids[:count])

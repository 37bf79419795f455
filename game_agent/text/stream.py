"""A reply as it grows: tokens in, valid text out, held back while it might be a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from game_agent.text.tokenizer import Tokenizer


class TextStream:
    """Turns tokens into pieces of text whose concatenation is the whole reply.

    A piece never ends inside a UTF-8 sequence, and never contains (part of) a stop string: text
    that may be the beginning of one waits until that is decided.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain after ``token``; sets ``stopped`` when a stop string is met."""
        if self.stopped:
            return ""
        self._held += self._decoder.step(self._tokenizer.backend, token) or ""
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain

    def finish(self) -> str:
        """What was held back, when the reply ends for another reason than a stop string."""
        certain, self._held = self._held, ""
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0
    )

"""Streamed text cut into sentences, for speech."""

from __future__ import annotations

import re

_END = re.compile(
    r"""
    [.!?…]+["'”’»)\]]*\s+    # without the space it may be the point of 3.5
    | [。！？]+[」』”’）]*(?=[^。！？」』”’）])
    | \n+
    """,
    re.VERBOSE,
)
_ABBREVIATION = re.compile(r"(?:^|\W)(?:Mr|Mrs|Ms|Dr|St|Prof|vs|etc|[A-Z])\.$")


class SentenceSplitter:
    """Feed it text, get whole sentences. All that it returns, joined, is all that it was fed."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """The sentences that ``text`` completes, each with the white space after it."""
        self._rest += text
        out = []
        start = 0
        for end in _END.finditer(self._rest):
            sentence = self._rest[start : end.end()]
            if sentence.isspace() or _ABBREVIATION.search(sentence.rstrip(" ")):
                continue
            out.append(sentence)
            start = end.end()
        self._rest = self._rest[start:]
        return out

    def flush(self) -> list[str]:
        """What is left at the end of the text, if anything."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []

"""Keys of lore that are regular expressions (``use_regex``).

RE2 needs time in proportion to the text, whatever the pattern: a card comes from strangers, and a
backtracking engine can be made to search for years. The price is that a pattern cannot look ahead
or behind, and cannot refer back; one that wants to is refused when the book is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import re2

from game_agent.errors import InvalidInput, TooLarge

MAX_PATTERN_CHARS = 1000
MAX_PATTERN_SIZE = 1000
"""Of one pattern, in instructions of RE2: an ordinary one has some dozens."""
MAX_PATTERNS_SIZE = 20_000
"""Of all patterns of a book."""
MAX_SEARCHED_CHARS = 4096
"""Patterns look at so much of a message, from its beginning."""

# As ECMAScript writes them; "g", "u", "v", "y" and "d" say nothing about whether there is a match.
_LITERAL = re.compile(r"/(.+)/([dgimsuvy]*)", re.DOTALL)
_FLAGS = "ims"


@dataclass(frozen=True)
class Pattern:
    """A pattern in RE2's syntax, its flags in front."""

    source: str
    compiled: Any = field(compare=False, repr=False)


def read_patterns(
    texts: Sequence[str], is_exact: bool, where: str, name: str
) -> tuple[Pattern, ...]:
    """The keys of the entry ``name`` as patterns; ``is_exact``: whether case matters.

    A key ``/…/i`` says itself whether it does. Raises InvalidInput or TooLarge, with ``where``, for
    one that cannot be used.
    """
    return tuple(_pattern(text, is_exact, where, name) for text in texts if text.strip())


def _pattern(text: str, is_exact: bool, where: str, name: str) -> Pattern:
    if len(text) > MAX_PATTERN_CHARS:
        message = f'entry "{name}": a pattern has at most {MAX_PATTERN_CHARS} characters'
        raise TooLarge(message, where=where)
    literal = _LITERAL.fullmatch(text)
    body, flags = (literal[1], literal[2]) if literal else (text, "" if is_exact else "i")
    flags = "".join(flag for flag in _FLAGS if flag in flags)
    source = f"(?{flags}){body}" if flags else body
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(source, options)
    except re2.error as error:
        reason = error.args[0]
        raise InvalidInput(
            f'entry "{name}": the pattern {text!r} cannot be used: '
            f"{reason.decode() if isinstance(reason, bytes) else reason}; patterns are RE2's, "
            "which does not look ahead or behind, or refer back",
            where=where,
        ) from None
    if compiled.programsize > MAX_PATTERN_SIZE:
        message = f'entry "{name}": the pattern {text!r} is too large; repeat less in it'
        raise TooLarge(message, where=where)
    return Pattern(source, compiled)


class PatternIndex:
    """Which of a book's patterns match a text. Raises TooLarge if they are too many."""

    def __init__(self, patterns: Iterable[Pattern], where: str = "") -> None:
        self._patterns = tuple(patterns)
        size = sum(pattern.compiled.programsize for pattern in self._patterns)
        if size > MAX_PATTERNS_SIZE:
            message = f"the {len(self._patterns)} patterns of the lorebook are too large together"
            raise TooLarge(message, where=where)

    def mentioned(self, text: str) -> frozenset[Pattern]:
        """The patterns that match somewhere in ``text``."""
        searched = text[:MAX_SEARCHED_CHARS].encode()
        return frozenset(each for each in self._patterns if each.compiled.search(searched))

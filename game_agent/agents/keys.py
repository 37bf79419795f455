"""Keys of lore: whether a text mentions them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from game_agent.agents.rendering import collapse
from game_agent.errors import TooLarge

MAX_KEY_CHARS = 200
HEAD_CHARS = 3

# Letters and digits of scripts that put spaces between words: Latin, Greek, Cyrillic. A key that
# begins with one begins where a word does ("rat" is not in "celebrate", but in "rats").
_IN_WORD = r"0-9A-Za-zÀ-ɏͰ-ӿ"
_STARTS = re.compile(rf"(?<![{_IN_WORD}])\S|[^\s{_IN_WORD}]")

Key = tuple[bool, str]  # whether case matters, and the text, folded if it does not


def read_keys(texts: Sequence[str], is_exact: bool, where: str) -> tuple[Key, ...]:
    """The keys that are not blank, each once. Raises TooLarge; ``where`` is the error's."""
    for text in texts:
        if len(text) > MAX_KEY_CHARS:
            raise TooLarge(f"a key has at most {MAX_KEY_CHARS} characters", where=where)
    folded = (collapse(text if is_exact else text.casefold()) for text in texts)
    return tuple(dict.fromkeys((is_exact, text) for text in folded if text))


class KeyIndex:
    """Finds all of many keys in a text: by their first characters, then by their lengths.

    The cost follows the text and the keys that begin like something in it, not the keys.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = frozenset(keys)
        lengths: dict[Key, set[int]] = defaultdict(set)
        for is_exact, text in self._keys:
            lengths[is_exact, text[:HEAD_CHARS]].add(len(text))
        self._lengths = {head: sorted(found) for head, found in lengths.items()}
        self._heads = {
            is_exact: sorted({len(head) for kind, head in lengths if kind is is_exact})
            for is_exact in (False, True)
        }

    def mentioned(self, text: str) -> frozenset[Key]:
        """The keys that ``text`` contains."""
        found: set[Key] = set()
        for is_exact in (False, True):
            if self._heads[is_exact]:
                self._search(text if is_exact else text.casefold(), is_exact, found)
        return frozenset(found)

    def _search(self, text: str, is_exact: bool, found: set[Key]) -> None:
        text = collapse(text)
        heads = self._heads[is_exact]
        for match in _STARTS.finditer(text):
            start = match.start()
            for num_chars in heads:
                head = (is_exact, text[start : start + num_chars])
                for length in self._lengths.get(head, ()):
                    key = (is_exact, text[start : start + length])
                    if key in self._keys:
                        found.add(key)

"""Which remembered texts a question is about: BM25 over the turns of one memory."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from itertools import islice

K1 = 1.2
B = 0.75
MAX_POSTINGS = 4096
"""Occurrences that one search looks at: rare words first, of a common word the latest."""

# Scripts without spaces between words are searched by character.
_LONE = "぀-ヿ㐀-䶿一-鿿豈-﫿"
_WORD = re.compile(rf"[{_LONE}]|[^\W{_LONE}]+")


def words(text: str) -> list[str]:
    """The words of a text as they are compared: case aside."""
    return _WORD.findall(text.casefold())


class RecallIndex:
    """Finds the texts nearest to a query by Okapi BM25 (Robertson and Zaragoza 2009, eq. 3.15).

    Texts are known by numbers; adding one costs its own length, a search at most MAX_POSTINGS
    steps, however many there are. A word that more than half of all texts have is not looked for.
    """

    def __init__(self) -> None:
        self._postings: dict[str, list[int]] = defaultdict(list)
        """By word the numbers of the texts that have it, rising, once for each occurrence."""
        self._frequencies: Counter[str] = Counter()
        """How many texts have a word."""
        self._lengths: dict[int, int] = {}
        self._num_words = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, number: int, text: str) -> None:
        """Takes a text in; ``number`` is not in use."""
        found = words(text)
        self._lengths[number] = len(found)
        self._num_words += len(found)
        self._frequencies.update(set(found))
        for word in found:
            postings = self._postings[word]
            if postings and postings[-1] > number:
                postings.insert(bisect_left(postings, number), number)
            else:
                postings.append(number)

    def remove(self, number: int, text: str) -> None:
        """Takes out what was added under that number."""
        for word in set(words(text)):
            postings = self._postings[word]
            del postings[bisect_left(postings, number) : bisect_right(postings, number)]
            self._frequencies[word] -= 1
            if not postings:
                del self._postings[word], self._frequencies[word]
        self._num_words -= self._lengths.pop(number)

    def search(self, query: str, limit: int, before: int | None = None) -> list[int]:
        """At most ``limit`` numbers of texts, the best first; all lower than ``before``, if given.

        Of equally good ones the later comes first.
        """
        scores = self._scores(query, before)
        return sorted(scores, key=lambda number: (-scores[number], -number))[:limit]

    def _scores(self, query: str, before: int | None) -> dict[int, float]:
        num_texts = len(self._lengths)
        known = {w for w in words(query) if 0 < 2 * self._frequencies[w] <= num_texts}
        scores: dict[int, float] = defaultdict(float)
        room = MAX_POSTINGS
        for word in sorted(known, key=lambda word: (self._frequencies[word], word)):
            postings, frequency = self._postings[word], self._frequencies[word]
            stop = len(postings) if before is None else bisect_left(postings, before)
            latest = Counter(islice(postings, max(0, stop - room), stop))
            room -= latest.total()
            idf = math.log(1 + (num_texts - frequency + 0.5) / (frequency + 0.5))
            for number, count in latest.items():
                scores[number] += idf * self._saturated(count, number)
            if room <= 0:
                break
        return scores

    def _saturated(self, count: int, number: int) -> float:
        """How much ``count`` occurrences in a text say: less for each more, and for a long text."""
        mean = self._num_words / len(self._lengths)
        length = 1 - B + B * self._lengths[number] / mean
        return count * (K1 + 1) / (count + K1 * length)

"""Where a long run of things or a long text is cut: where a change elsewhere does not move it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import accumulate

MIN_CHARS = 100  # a part that is shorter is joined with its siblings
JOIN_CHARS = 300  # a join that is longer is cut
RANK_CHARS = 16  # the end of a text by which a cut after it is ranked
SEPARATOR = ", "


def rank(text: str) -> int:
    """A hash that decides which cut is taken first: the lowest of a run."""
    return zlib.crc32(text.encode())


def cut_run(sizes: Sequence[int], ranks: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Cuts a run of things into groups [start, stop) of at most ``limit`` in all, if each fits.

    A run above the limit is cut after the thing of the lowest rank that leaves MIN_CHARS on both
    sides, and so on with both halves (the shape of a treap), so that a thing that comes, goes or
    changes its size moves the cuts around itself only.
    """
    ends = [0, *accumulate(sizes)]
    groups: list[tuple[int, int]] = []
    todo = [(0, len(sizes))] if sizes else []
    while todo:
        start, stop = todo.pop()
        if ends[stop] - ends[start] <= limit or stop - start == 1:
            groups.append((start, stop))
        else:
            cut = _best_cut(ends, ranks, start, stop)
            todo += [(cut, stop), (start, cut)]
    return groups


def _best_cut(ends: Sequence[int], ranks: Sequence[int], start: int, stop: int) -> int:
    def leaves_enough(cut: int) -> bool:
        return min(ends[cut] - ends[start], ends[stop] - ends[cut]) >= MIN_CHARS

    # Equal things have equal ranks; taking the middle one keeps the number of rounds logarithmic.
    return min(
        filter(leaves_enough, range(start + 1, stop)),
        key=lambda cut: (ranks[cut - 1], abs(2 * cut - start - stop)),
        default=(start + stop) // 2,
    )


def cut_texts(texts: Sequence[str], limit: int) -> list[str]:
    """Cuts ``", ".join(texts)`` into stretches of at most ``limit`` characters.

    Between texts, or inside a long one between its sentences; a sentence that is too long is cut
    between words, and a word, if it must be, anywhere.
    """
    whole = SEPARATOR.join(texts)
    pieces = [piece for text in texts[:-1] for piece in _pieces(text + SEPARATOR)]
    pieces += _pieces(texts[-1])
    ends = accumulate(map(len, pieces))
    ranks = [rank(whole[max(0, end - RANK_CHARS) : end]) for end in ends]
    groups = cut_run([len(piece) for piece in pieces], ranks, limit)
    stretches = ["".join(pieces[start:stop]) for start, stop in groups]
    return [stretch.removesuffix(SEPARATOR).strip() for stretch in stretches]


def _pieces(text: str) -> list[str]:
    if len(text) <= MIN_CHARS:
        return [text]
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?] )|(?<=[。！？])", text):
        words = [sentence] if len(sentence) <= JOIN_CHARS else re.split(r"(?<= )", sentence)
        for word in words:
            size = JOIN_CHARS if len(word) <= JOIN_CHARS else MIN_CHARS
            pieces += [word[i : i + size] for i in range(0, len(word), size)]
    return pieces

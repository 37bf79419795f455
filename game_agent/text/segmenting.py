"""A text that came without blocks, cut into blocks by the rules of the Block-Attention paper.

Rules of the data of Tulu3-Block-FT (arXiv 2409.15355, its repository's ``preprocess_block.py``),
with one difference: lines of dashes or equals signs end a block there as here, but are no block of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# The first of these that is in a text cuts it, and ends the blocks it cuts.
DELIMITERS = tuple(map(re.compile, (r"\n\n\s*", r"-{3,}\s*", r"={3,}\s*", r"\n(?=\t)", r"\n\s*")))
MAX_BLOCKS = 14


def segment(text: str, max_blocks: int = MAX_BLOCKS) -> list[str]:
    """Blocks of ``text``, at most ``max_blocks`` ≥ 1 and none empty; joined they are the text.

    The text is cut behind paragraphs, or if it has none behind ``---``, ``===``, before indented
    lines, behind lines. While there are too many blocks, the shortest joins the one before it.
    """
    delimiter = next((each for each in DELIMITERS if each.search(text)), None)
    blocks = [text] if delimiter is None else list(_cut(text, delimiter))
    while len(blocks) > max_blocks:
        shortest = min(range(len(blocks)), key=lambda index: len(blocks[index]))
        first = max(0, shortest - 1)
        blocks[first : first + 2] = ["".join(blocks[first : first + 2])]
    return [block for block in blocks if block]


def _cut(text: str, delimiter: re.Pattern[str]) -> Iterator[str]:
    """Pieces that each end with ``delimiter``; white space alone joins what follows."""
    start = 0
    for found in delimiter.finditer(text):
        if text[start : found.end()].strip():
            yield text[start : found.end()]
            start = found.end()
    yield text[start:]

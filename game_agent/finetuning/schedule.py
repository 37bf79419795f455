"""Which samples each step learns from: a function of the seed alone, so that any run can go on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count, islice

from game_agent.finetuning.rows import pack
from game_agent.finetuning.samples import Sample

Groups = list[list[int]]


def row_groups(samples: Sequence[Sample], max_tokens: int, seed: int) -> Iterator[list[int]]:
    """Rows without end, as numbers of samples: epoch after epoch, each in an order of its own."""
    for epoch in count():
        order = list(range(len(samples)))
        random.Random(f"{seed} {epoch}").shuffle(order)
        yield from pack(samples, order, max_tokens)


def steps(
    samples: Sequence[Sample], max_tokens: int, seed: int, num_rows: int, start: int
) -> Iterator[Groups]:
    """The rows, ``num_rows`` each, of step ``start`` and all that follow."""
    groups = islice(row_groups(samples, max_tokens, seed), start * num_rows, None)
    while True:
        yield list(islice(groups, num_rows))

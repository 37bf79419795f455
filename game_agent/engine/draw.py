"""From rows of logits to what was asked for: tokens drawn together, options and events scored."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from game_agent.engine.request import Choice, Sampling
from game_agent.engine.sequence import Chunk, Sequence
from game_agent.errors import GameAgentError
from game_agent_kernels import Draws
from game_agent_kernels.sample import batch

SampleRows = Callable[[Tensor, Draws], Tensor]


def take_rows(chunks: Seq[Chunk], logits: Tensor) -> list[tuple[Sequence, int]]:
    """Count what a step has computed; hand out logits [rows, vocab], which lie in order of chunks.

    Returns (sequence, row) of those that go on by a token that is to be drawn.
    """
    for chunk in chunks:
        if chunk.block is not None:
            chunk.sequence.entries[chunk.block].num_filled += chunk.num_tokens
    row = 0
    drawing: list[tuple[Sequence, int]] = []
    for chunk in chunks:
        sequence, count = chunk.sequence, chunk.num_tokens
        if chunk.block is not None:
            continue
        if chunk.option is not None:
            assert sequence.scoring is not None
            sequence.scoring.advance(chunk.option, logits[row : row + count])
            row += count
            continue
        sequence.num_computed += count
        if sequence.request.score:
            sequence.scores.append(logits[row : row + count].cpu())
            row += count
        elif not sequence.num_pending:
            if sequence.scoring is not None:
                sequence.scoring.begin(logits[row])
            else:
                drawing.append((sequence, row))
            row += 1
    return drawing


def draw_tokens(
    sample_rows: SampleRows, logits: Tensor, drawing: Seq[tuple[Sequence, int]]
) -> list[int | GameAgentError]:
    """The next token of each sequence by its row of logits [rows, vocab], or why there is none."""
    if not drawing:
        return []
    sequences = [sequence for sequence, _ in drawing]
    is_constrained = any(sequence.constraint is not None for sequence in sequences)
    # In most steps all rows are drawn from; what is masked must be a copy.
    rows = logits
    if is_constrained or len(drawing) < len(logits):
        rows = logits[torch.tensor([row for _, row in drawing], device=logits.device)]
    failed: dict[int, GameAgentError] = {}
    for index, sequence in enumerate(sequences):
        if sequence.constraint is not None:
            try:
                allowed = torch.from_numpy(sequence.constraint.mask(logits.shape[1]))
            except GameAgentError as error:
                failed[index] = error
            else:
                rows[index] = rows[index].masked_fill(~allowed.to(rows.device), -torch.inf)
    draws = draws_of([s.request.sampling for s in sequences], [[take(s)] for s in sequences])
    tokens = sample_rows(rows, draws._replace(chances=draws.chances[0])).tolist()
    return [failed.get(index) or drawn(token) for index, token in enumerate(tokens)]


def take(sequence: Sequence) -> float:
    """What chance gives a sequence's next token; greedy ones need nothing of it."""
    return sequence.chance.take() if sequence.request.sampling.temperature > 0 else 0.0


def ahead(sequence: Sequence, count: int) -> list[float]:
    """What it gives the next ``count`` tokens; it stays the next."""
    is_drawn = sequence.request.sampling.temperature > 0
    return sequence.chance.peek(count) if is_drawn else [0.0] * count


def draws_of(samplings: Seq[Sampling], chances: Seq[Seq[float]]) -> Draws:
    """Of rows with these samplings; ``chances`` [rows, steps] become [steps, rows]."""
    return Draws(
        np.array([each.temperature for each in samplings], np.float32),
        np.array([each.top_p for each in samplings], np.float32),
        np.array([each.top_k for each in samplings], np.int64),
        np.array(chances, np.float32).T.copy(),
    )


def drawn(token: int) -> int | GameAgentError:
    """A token, or why there is none: its logits, for -1, are no numbers."""
    if token < 0:
        return GameAgentError("no token could be drawn: the model's logits are no numbers")
    return token


def choose(sequence: Sequence) -> Choice | None:
    """One of the options, once all are scored: the best, the first among equals.

    Above temperature 0 it is drawn as if the scores were logits. None: they are no numbers.
    """
    assert sequence.scoring is not None
    scores = sequence.scoring.scores(normalize=sequence.request.normalize)
    logits = torch.tensor([scores], dtype=torch.float64)
    draws = draws_of([sequence.request.sampling], [[take(sequence)]])
    index = int(batch.sample_rows(logits, draws._replace(chances=draws.chances[0])))
    return None if index < 0 else Choice(index, tuple(scores))

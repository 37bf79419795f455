"""From rows of logits to what was asked for: tokens drawn together, options and events scored."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from game_agent.engine.request import Choice, Sampling
from game_agent.engine.sequence import Chunk, Sequence
from game_agent.errors import GameAgentError
from game_agent_kernels import sample_rows


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


def draw_tokens(logits: Tensor, drawing: Seq[tuple[Sequence, int]]) -> list[int | GameAgentError]:
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
    tokens = draw_rows(
        rows,
        [sequence.request.sampling for sequence in sequences],
        [sequence.generator for sequence in sequences],
    )
    return [failed.get(index) or drawn(token) for index, token in enumerate(tokens)]


def drawn(token: int | None) -> int | GameAgentError:
    """A token, or why there is none: its logits, for None or -1, are no numbers."""
    if token is None or token < 0:
        return GameAgentError("no token could be drawn: the model's logits are no numbers")
    return token


def choose(sequence: Sequence) -> Choice | None:
    """One of the options, once all are scored: the best, the first among equals.

    Above temperature 0 it is drawn as if the scores were logits. None: they are no numbers.
    """
    assert sequence.scoring is not None
    scores = sequence.scoring.scores(normalize=sequence.request.normalize)
    logits = torch.tensor([scores], dtype=torch.float64)
    index = draw_rows(logits, [sequence.request.sampling], [sequence.generator])[0]
    return None if index is None else Choice(index, tuple(scores))


def draw_rows(
    logits: Tensor, samplings: Seq[Sampling], generators: Seq[torch.Generator]
) -> list[int | None]:
    """An index for each row of logits [rows, n]; None for a row that holds no numbers.

    What a row gives depends on its logits, its sampling and its generator alone.
    """
    highest, tokens = _highest(logits)
    by_kind: dict[bool, list[int]] = {}
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0:
            by_kind.setdefault(sampling.cuts, []).append(row)
    for cuts, rows in by_kind.items():
        chosen = [samplings[row] for row in rows]
        draws = [torch.rand(1, generator=generators[row]) for row in rows]
        index = torch.tensor(rows, device=logits.device)
        tokens[index] = sample_rows(
            logits[index],
            _column(logits, [sampling.temperature for sampling in chosen]),
            _column(logits, [sampling.top_p for sampling in chosen]) if cuts else None,
            torch.cat(draws).to(logits.device),
            _column(logits, [sampling.top_k for sampling in chosen]).long() if cuts else None,
        )
    return [
        token if math.isfinite(value) else None
        for token, value in zip(tokens.tolist(), highest.tolist(), strict=True)
    ]


def _highest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest logit of each row and its index; no number where any of the row is none."""
    if logits.device.type != "cpu":
        return logits.max(-1)
    # Between two passes numpy's search for it is the quicker one.
    rows = logits.numpy()
    tokens = rows.argmax(-1)
    return torch.from_numpy(rows[np.arange(len(rows)), tokens]), torch.from_numpy(tokens)


def _column(logits: Tensor, values: Seq[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=logits.device)

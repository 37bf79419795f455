"""How likely texts go on in a certain way, and how they go on: token ids in, many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from game_agent.blocks.block import Block
from game_agent.engine import Completion, Engine, Request, Sampling
from game_agent.evaluation.contexts import Context, Ids, chain
from game_agent.evaluation.ways import Way

SCORED_TOKENS = 512  # of a long text at once: their logits are held


@dataclass(frozen=True)
class Likelihood:
    """Sum of log-probabilities, and whether each token was the likeliest."""

    log_prob: float
    is_greedy: bool


@dataclass(frozen=True)
class Goal:
    """How a reply is made: see ``Request``."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)


class Continuations:
    """Scores and makes continuations in one way; what does not fit loses its beginning."""

    def __init__(self, engine: Engine, way: Way) -> None:
        self._engine = engine
        self._way = way

    @property
    def max_tokens(self) -> int:
        """Most tokens of a context and what goes with it."""
        return self._engine.runner.max_context_tokens

    def likelihoods(self, pairs: Sequence[tuple[Context, Ids]]) -> list[Likelihood]:
        """Of each continuation [n ≥ 1] of a context."""
        requests = []
        for context, following in pairs:
            # All but the last token are computed; its logits say nothing about the continuation.
            whole = Context(context.blocks, (*context.event, *following[:-1]))
            requests.append(self._request(whole.last(self.max_tokens), max_tokens=0, score=True))
        return [
            _likelihood(completion, following)
            for completion, (_, following) in zip(self._engine.run(requests), pairs, strict=True)
        ]

    def rolling(self, windows: Sequence[tuple[Ids, Ids]]) -> list[float]:
        """Log-probability of each text [n ≥ 1] behind its context [≥ 1], in full mode always."""
        full = Continuations(self._engine, Way("full", "full"))
        sums = []
        for context, following in windows:
            parts = full.likelihoods(list(_parts(context, following)))
            sums.append(sum(part.log_prob for part in parts))
        return sums

    def replies(self, asked: Sequence[tuple[Context, Goal]]) -> list[str]:
        """The text that follows each context."""
        requests = [
            self._request(
                context.last(max(1, self.max_tokens - goal.max_tokens)),
                max_tokens=goal.max_tokens,
                stop=goal.stop,
                sampling=goal.sampling,
            )
            for context, goal in asked
        ]
        return [completion.text for completion in self._engine.run(requests)]

    def _request(
        self,
        context: Context,
        *,
        max_tokens: int,
        score: bool = False,
        stop: tuple[str, ...] = (),
        sampling: Sampling | None = None,
    ) -> Request:
        return Request(
            tuple(Block(np.array(ids, np.int32)) for ids in context.blocks),
            np.array(context.event, np.int32),
            mode=self._way.mode,
            placement=self._way.placement,
            max_tokens=max_tokens,
            score=score,
            stop=stop,
            sampling=sampling or Sampling(),
        )


def _parts(context: Ids, following: Ids) -> Iterator[tuple[Context, Ids]]:
    """The same in parts of which each continues all before it."""
    for start in range(0, len(following), SCORED_TOKENS):
        yield chain((*context, *following[:start])), following[start : start + SCORED_TOKENS]


def _likelihood(completion: Completion, following: Ids) -> Likelihood:
    assert completion.logits is not None
    logits: Tensor = completion.logits[-len(following) :]
    chosen = torch.tensor(following)
    log_probs = logits.log_softmax(-1).gather(1, chosen[:, None])
    return Likelihood(float(log_probs.double().sum()), bool((logits.argmax(-1) == chosen).all()))

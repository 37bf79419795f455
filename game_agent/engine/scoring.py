"""One of several options: how likely is each as the reply, all found out side by side.

Every option continues the event in pages of its own, at the positions that a reply would have, so
one forward pass scores all of them on the same context. The event's last token gives the
probability of an option's first token; an option's last token is scored but never computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from game_agent.blocks.pool import pages_for
from game_agent.model.planner import Ints, Run, own_segment, page_slots
from game_agent_kernels import Segments


@dataclass
class _Lane:
    """One option under way: ``num_computed`` of its tokens have keys in ``pages``."""

    tokens: Ints
    pages: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    num_computed: int = 0
    log_prob: float = 0.0

    @property
    def num_to_compute(self) -> int:
        return len(self.tokens) - 1


class Scoring:
    """The options [n ≥ 1] of one question, as token ids [≥ 1] each. Equal ones share a lane."""

    def __init__(self, options: Seq[Ints]) -> None:
        places: dict[bytes, int] = {}
        self._lane_of = [places.setdefault(ids.tobytes(), len(places)) for ids in options]
        self.lanes = [_Lane(np.frombuffer(ids, np.int32)) for ids in places]
        self._is_begun = False

    def lengths(self) -> list[int]:
        """Tokens to compute of each lane."""
        return [lane.num_to_compute for lane in self.lanes]

    def num_pages(self) -> int:
        return sum(pages_for(lane.num_to_compute) for lane in self.lanes)

    def hold(self, pages: Ints) -> None:
        """Hand out pages [num_pages]; their owner gives them back."""
        ends = np.cumsum([pages_for(lane.num_to_compute) for lane in self.lanes])
        for lane, own in zip(self.lanes, np.split(pages, ends[:-1]), strict=True):
            lane.pages = own

    def pending(self) -> Iterator[tuple[int, int]]:
        """(lane, tokens left to compute) where there are any."""
        for index, lane in enumerate(self.lanes):
            if left := lane.num_to_compute - lane.num_computed:
                yield index, left

    @property
    def is_complete(self) -> bool:
        return self._is_begun and not any(self.pending())

    def run(self, index: int, num_tokens: int, position: int, before: Segments) -> Run:
        """The next tokens of a lane.

        position: where in the event's frame the options begin
        before:   what comes before the options: the blocks and the event
        """
        lane = self.lanes[index]
        first, last = lane.num_computed, lane.num_computed + num_tokens
        own = own_segment(lane.pages, position, last, before.cos.shape[1])
        return Run(
            tokens=lane.tokens[first:last],
            position=position + first,
            slots=page_slots(lane.pages, first, last),
            segments=Segments.concat([before, own]),
            num_logits=num_tokens,
        )

    def begin(self, logits: Tensor) -> None:
        """Score first tokens by the logits [vocab] of the event's last token."""
        firsts = torch.tensor([int(lane.tokens[0]) for lane in self.lanes], device=logits.device)
        for lane, value in zip(
            self.lanes, (logits[firsts] - logits.logsumexp(-1)).tolist(), strict=True
        ):
            lane.log_prob += value
        self._is_begun = True

    def advance(self, index: int, logits: Tensor) -> None:
        """Score a lane's next tokens by the logits [n, vocab] of the ``n`` before them."""
        lane = self.lanes[index]
        first = lane.num_computed + 1
        lane.num_computed += len(logits)
        following = torch.from_numpy(lane.tokens[first : first + len(logits)].astype(np.int64))
        chosen = logits.gather(1, following.to(logits.device).unsqueeze(1)).squeeze(1)
        lane.log_prob += float((chosen - logits.logsumexp(-1)).double().sum())

    def scores(self, *, normalize: bool) -> list[float]:
        """Log-probability of each option; with ``normalize`` divided by its number of tokens."""
        lanes = [self.lanes[index] for index in self._lane_of]
        return [lane.log_prob / (len(lane.tokens) if normalize else 1) for lane in lanes]

"""Rows of logits at once, where they lie: nothing but the drawn tokens ever leaves the device."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from game_agent_kernels.sample.draws import Draws


def sample_rows(logits: Tensor, draws: Draws) -> Tensor:
    """Draw a token id for each row of logits [rows, vocab] -> int64 [rows] on their device.

    The draw is by inverse of the cumulated probabilities, of the tokens in order of probability, or
    where nothing is cut off in order of their ids, which saves the sort. A token of logit -inf is
    never drawn; -1 stands where the highest logit is no number, or any is none. A row's token
    depends on nothing but its logits and its entry in ``draws``. A seed gives other tokens than the
    reference's, the same on every device, up to the rounding of sums.

    Raises ``ValueError`` or ``TypeError`` for draws that do not fit the rows.
    """
    draws.check(len(logits))
    highest, tokens = logits.max(-1)
    is_drawn, cuts = draws.temperatures > 0, draws.cuts
    for rows, draw in ((is_drawn & ~cuts, _draw_any), (is_drawn & cuts, _draw_kept)):
        if rows.all():
            tokens = draw(logits, draws)
        elif rows.any():
            index = torch.from_numpy(rows.nonzero()[0]).to(logits.device)
            tokens = tokens.index_copy(0, index, draw(logits[index], draws.of(rows)))
    return torch.where(highest.isfinite(), tokens, -1)


def _draw_any(logits: Tensor, draws: Draws) -> Tensor:
    return _inverse(_probs(logits, draws).cumsum(-1), _column(draws.chances, logits))


def _draw_kept(logits: Tensor, draws: Draws) -> Tensor:
    ordered, order = _probs(logits, draws).sort(descending=True, stable=True)
    cumulated = ordered.cumsum(-1)
    top_ps, top_ks = (_column(array, logits) for array in (draws.top_ps, draws.top_ks))
    ranks = torch.arange(logits.shape[1], device=logits.device)
    kept = (cumulated - ordered < top_ps) & ((ranks < top_ks) | (top_ks == 0))
    # The most likely token stays, whatever rounding says of it.
    kept[:, 0] = True
    last = cumulated.gather(1, kept.sum(-1, keepdim=True) - 1)
    place = _inverse(torch.minimum(cumulated, last), _column(draws.chances, logits))
    return order.gather(1, place.unsqueeze(1)).squeeze(1)


def _probs(logits: Tensor, draws: Draws) -> Tensor:
    logits = logits.float()
    # From the highest down, so that no temperature is too low.
    below = logits - logits.amax(-1, keepdim=True)
    return torch.softmax(below / _column(draws.temperatures, logits), -1)


def _column(values: npt.NDArray[Any], logits: Tensor) -> Tensor:
    return torch.from_numpy(values).to(logits.device).unsqueeze(1)


def _inverse(cumulated: Tensor, chances: Tensor) -> Tensor:
    """[rows] the first place where cumulated [rows, n] exceeds the share ``chances`` of its end.

    There the sum grows, so the place has a probability above 0.
    """
    end = cumulated[:, -1:]
    below_end = torch.nextafter(end, torch.zeros_like(end))
    return (cumulated <= torch.minimum(chances * end, below_end)).sum(-1)

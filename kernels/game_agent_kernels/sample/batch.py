"""Rows of logits at once, where they lie: nothing but the drawn tokens ever leaves the device."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_rows(
    logits: Tensor,
    temperatures: Tensor,
    top_ps: Tensor | None,
    draws: Tensor,
    top_ks: Tensor | None = None,
) -> Tensor:
    """Draw a token id for each row of logits [rows, vocab] -> int64 [rows], without a host sync.

    temperatures: [rows] float32, 0 is greedy
    top_ps:       [rows] float32, see the reference; None: 1 for all
    draws:        [rows] float32 in [0, 1): what chance gives each row, so that a row's token does
                  not depend on its neighbours
    top_ks:       [rows] int64, so many of the most likely tokens are kept, 0 all of them; None: all

    The draw is by inverse of the cumulated probabilities, of the tokens in order of probability, or
    where nothing is cut off in order of their ids, which saves the sort. A token of logit -inf is
    never drawn. A seed gives other tokens than the reference's, the same on every device.
    """
    # Greedy rows are divided by 1; what is drawn for them is not used.
    divisors = torch.where(temperatures > 0, temperatures, 1.0).unsqueeze(1)
    probs = torch.softmax(logits.float() / divisors, -1)
    if top_ps is None and top_ks is None:
        drawn = _inverse(probs.cumsum(-1), draws)
        return torch.where(temperatures > 0, drawn, logits.argmax(-1))
    ordered, order = probs.sort(descending=True, stable=True)
    cumulated = ordered.cumsum(-1)
    kept = torch.ones_like(ordered, dtype=torch.bool)
    if top_ps is not None:
        kept &= cumulated - ordered < top_ps.unsqueeze(1)
    if top_ks is not None:
        ranks = torch.arange(logits.shape[1], device=logits.device)
        kept &= (ranks < top_ks.unsqueeze(1)) | (top_ks == 0).unsqueeze(1)
    # The most likely token stays, whatever rounding says of it.
    kept[:, 0] = True
    last = cumulated.gather(1, kept.sum(-1, keepdim=True) - 1)
    place = _inverse(torch.minimum(cumulated, last), draws)
    drawn = order.gather(1, place.unsqueeze(1)).squeeze(1)
    return torch.where(temperatures > 0, drawn, logits.argmax(-1))


def _inverse(cumulated: Tensor, draws: Tensor) -> Tensor:
    """[rows] the first place where cumulated [rows, n] exceeds the share ``draws`` of its end.

    There the sum grows, so the place has a probability above 0.
    """
    end = cumulated[:, -1:]
    below_end = torch.nextafter(end, torch.zeros_like(end))
    return (cumulated <= torch.minimum(draws.unsqueeze(1) * end, below_end)).sum(-1)

"""Rows of logits at once, where they lie: nothing but the drawn tokens ever leaves the device."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Same contract as the reference, for one row; ``generator`` may be of another device.

    The draw is by inverse of the cumulated probabilities, so a seed gives other tokens than the
    reference's, the same on every device.
    """
    if temperature == 0.0:
        return int(logits.argmax())
    draw = torch.rand(1, generator=generator, device=generator.device).to(logits.device)
    one = logits.new_ones(1, dtype=torch.float32)
    return int(sample_rows(logits[None], one * temperature, one * top_p, draw))


def sample_rows(
    logits: Tensor,
    temperatures: Tensor,
    top_ps: Tensor,
    draws: Tensor,
    top_ks: Tensor | None = None,
) -> Tensor:
    """Draw a token id for each row of logits [rows, vocab] -> int64 [rows], without a host sync.

    temperatures: [rows] float32, 0 is greedy
    top_ps:       [rows] float32, see the reference
    draws:        [rows] float32 in [0, 1): what chance gives each row, so that a row's token does
                  not depend on its neighbours
    top_ks:       [rows] int64, so many of the most likely tokens are kept, 0 all of them
    """
    # Greedy rows are divided by 1; what is drawn for them is not used.
    divisors = torch.where(temperatures > 0, temperatures, 1.0).unsqueeze(1)
    ordered, order = torch.softmax(logits.float() / divisors, -1).sort(descending=True, stable=True)
    cumulated = ordered.cumsum(-1)
    kept = cumulated - ordered < top_ps.unsqueeze(1)
    if top_ks is not None:
        ranks = torch.arange(logits.shape[1], device=logits.device)
        kept &= (ranks < top_ks.unsqueeze(1)) | (top_ks == 0).unsqueeze(1)
    # The most likely token stays, whatever rounding says of it.
    kept[:, 0] = True
    num_kept = kept.sum(-1, keepdim=True)
    room = cumulated.gather(1, num_kept - 1)
    below = (cumulated <= draws.unsqueeze(1) * room).sum(-1, keepdim=True)
    drawn = order.gather(1, torch.minimum(below, num_kept - 1)).squeeze(1)
    return torch.where(temperatures > 0, drawn, logits.argmax(-1))

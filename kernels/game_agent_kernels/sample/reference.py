"""Plain torch. Any device."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Draw one token id from logits [vocab].

    temperature 0 is greedy (the lowest id among equals). Otherwise logits are divided by the
    temperature and only the smallest set of most likely tokens whose probabilities reach ``top_p``
    is kept (nucleus sampling, arXiv 1904.09751), the most likely one always.
    """
    if temperature == 0.0:
        return int(logits.argmax())
    probs = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1.0:
        ordered, order = probs.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        probs = torch.zeros_like(probs).scatter(0, order, ordered * (before < top_p))
    return int(torch.multinomial(probs, 1, generator=generator))

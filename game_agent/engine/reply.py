"""A reply on its way out: tokens to text, text to the listener, and the one end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch

from game_agent.engine.request import Completion, FinishReason
from game_agent.engine.sequence import Sequence

log = logging.getLogger(__name__)


def push(sequence: Sequence, token: int, stop_token_ids: Collection[int]) -> FinishReason | None:
    """Add a drawn token to the reply and tell what text is certain; why it ends, if it does."""
    if token in stop_token_ids:
        return "stop"
    if sequence.constraint is not None:
        sequence.constraint.accept([token])
    return _append(sequence, token) or force(sequence) or _limit(sequence)


def force(sequence: Sequence) -> FinishReason | None:
    """Add the tokens that a grammar leaves no choice about; why the reply ends, if it does."""
    if sequence.constraint is None:
        return None
    for token in sequence.constraint.forced():
        if reason := _append(sequence, token):
            return reason
        sequence.num_forced += 1
    return "stop" if sequence.constraint.is_complete else None


def _limit(sequence: Sequence) -> FinishReason | None:
    return "length" if sequence.num_generated >= sequence.max_tokens else None


def _append(sequence: Sequence, token: int) -> FinishReason | None:
    if reason := _limit(sequence):
        return reason
    sequence.tokens.append(token)
    _emit(sequence, sequence.stream.push(token))
    return "stop" if sequence.stream.stopped else None


def flush(sequence: Sequence) -> None:
    """Tell the text that was held back; none comes after it."""
    _emit(sequence, sequence.stream.finish())


def completion(sequence: Sequence, reason: FinishReason, now_s: float) -> Completion:
    """What ``sequence`` has, as its end at ``now_s``."""
    begun = sequence.submitted_s
    usage = replace(
        sequence.usage,
        generated_tokens=sequence.num_generated,
        forced_tokens=sequence.num_forced,
        queue_ms=1e3 * ((sequence.admitted_s or now_s) - begun),
        ttft_ms=1e3 * ((sequence.first_token_s or now_s) - begun),
        total_ms=1e3 * (now_s - begun),
    )
    return Completion(
        text="".join(sequence.text),
        finish_reason=reason,
        usage=usage,
        tokens=tuple(sequence.tokens[len(sequence.request.event) :]),
        logits=torch.cat(sequence.scores) if sequence.scores else None,
        choice=sequence.choice,
    )


def tell(call: Callable[..., object], *args: Any) -> None:
    """Call a listener. Its mistake must not end the other requests."""
    try:
        call(*args)
    except Exception:
        log.exception("a listener failed")


def _emit(sequence: Sequence, text: str) -> None:
    if text:
        sequence.text.append(text)
        tell(sequence.listener.on_text, len(sequence.text) - 1, text)

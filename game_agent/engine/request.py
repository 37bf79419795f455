"""What is asked of the engine, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from game_agent.blocks.block import Block
from game_agent.engine.contextual import ContextualCache
from game_agent.engine.grammar import Grammar
from game_agent.engine.placement import PLACEMENTS, Placement
from game_agent.errors import GameAgentError, InvalidInput, TooLarge

Mode = Literal["block", "full", "contextual"]
MODES: tuple[Mode, ...] = ("block", "full", "contextual")
FinishReason = Literal["stop", "length", "cancelled", "superseded", "deadline"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy, ``seed`` None draws a fresh one.

    ``top_p`` keeps the most likely tokens that reach it together, ``top_k`` so many; 0 is all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 100.0:
            raise InvalidInput("temperature must lie between 0 and 100", where="temperature")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidInput("top_p must be above 0 and at most 1", where="top_p")
        if self.top_k < 0:
            raise InvalidInput("top_k must not be negative", where="top_k")


@dataclass(frozen=True, eq=False)
class Request:
    """One question, or (with an empty event) blocks to make ready.

    blocks:     the prompt's blocks in order
    event:      token ids [n] int32 of the question, up to where the reply begins
    max_tokens: most tokens of the reply; 0 with ``score``, ``options`` or an empty event
    stop:       texts that end the reply and are not part of it
    score:      the result is the event's logits instead of a reply
    deadline_s: on the engine's clock; the request ends then with what it has
    peer:       who asks; peers get equal shares of a step
    options:    token ids [n ≥ 1] int32 of each; the result is a choice among them
    grammar:    what the reply must be; tokens that it forces cost no forward pass of their own
    normalize:  an option's score is the mean of its tokens' log-probabilities, not their sum
    is_idle:    computed only in steps in which nothing else is, and ended as ``cancelled`` when its
                room is needed
    contextual: for ``contextual`` mode, and only there: what the asker's last prompt left
    renewed:    in ``contextual`` mode, the blocks to be computed anew although they are there
    has_sink:   set by the engine: the first block is the model's sink, which all others saw
    placement:  of the blocks in ``block`` mode; all but ``prompt`` are baselines to compare with
    """

    blocks: tuple[Block, ...]
    event: npt.NDArray[np.int32]
    mode: Mode = "block"
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    priority: int = 0
    deadline_s: float | None = None
    score: bool = False
    peer: str = ""
    options: tuple[npt.NDArray[np.int32], ...] = ()
    normalize: bool = False
    grammar: Grammar | None = None
    is_idle: bool = False
    contextual: ContextualCache | None = None
    renewed: range | None = None
    has_sink: bool = False
    placement: Placement = "prompt"

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each block."""
        return [len(block.tokens) for block in self.blocks]

    @property
    def is_background(self) -> bool:
        """Whether nobody waits for it: its blocks are made ready, or it is for idle time."""
        return self.is_idle or not len(self.event)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InvalidInput(
                f"mode must be one of {', '.join(MODES)}, not {self.mode!r}", where="mode"
            )
        if (self.mode == "contextual") != (self.contextual is not None):
            raise InvalidInput("a cache belongs to contextual mode, and to no other", where="mode")
        if self.placement not in PLACEMENTS:
            known = ", ".join(PLACEMENTS)
            raise InvalidInput(f"placement must be one of {known}", where="placement")
        if self.placement != "prompt" and self.mode != "block":
            raise InvalidInput("placements are for block mode", where="placement")
        if self.max_tokens < 0:
            raise InvalidInput("max_tokens must not be negative", where="max_tokens")
        if self.options and (self.score or self.max_tokens or not len(self.event)):
            raise InvalidInput("options need an event and no reply: max_tokens=0", where="options")
        if not all(map(len, self.options)):
            raise InvalidInput("an option needs at least one token", where="options")
        if self.max_tokens == 0 and len(self.event) and not (self.score or self.options):
            raise InvalidInput("max_tokens must be at least 1 for a reply", where="max_tokens")
        if not self.blocks and not len(self.event):
            raise InvalidInput("a request needs blocks or an event", where="event")


@dataclass(frozen=True)
class Usage:
    """What a request cost. ``context_tokens = cached_tokens + encoded_tokens + prefill_tokens``.

    Tokens of blocks that were in the store (or on their way, for another request) are *cached*;
    of blocks encoded for this request *encoded*; of the event and of options *prefill*. Of the
    *generated* ones a grammar *forced* some. ``ttft_ms`` (time to first token) and ``total_ms``
    count from submission, ``queue_ms`` until the request was taken up.

    ``flops`` are the operations up to the first token (see ``model/flops.py``), ``full_flops``
    those that a prefill of the whole prompt would have taken (0 for a request without an event).
    """

    context_tokens: int = 0
    cached_tokens: int = 0
    encoded_tokens: int = 0
    prefill_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    blocks: int = 0
    blocks_encoded: int = 0
    flops: int = 0
    full_flops: int = 0
    queue_ms: float = 0.0
    ttft_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class Choice:
    """One of a request's options. ``scores``: of each, as ``Request.normalize`` says."""

    index: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Completion:
    """A request's end: ``text`` is the concatenation of all pieces that were streamed.

    tokens: the generated ids, without the stop token
    logits: [event, vocab] float32 of a ``score`` request, else None
    choice: of a request with options, None if it ended before all were scored
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    tokens: tuple[int, ...] = ()
    logits: Tensor | None = field(default=None, compare=False)
    choice: Choice | None = None


class Listener(Protocol):
    """Hears of one request, from the engine's thread: texts, then exactly one end."""

    def on_text(self, index: int, text: str) -> None: ...

    def on_done(self, completion: Completion) -> None: ...

    def on_error(self, error: GameAgentError) -> None: ...


def check_request(
    request: Request, max_context_tokens: int, max_kv_tokens: int, vocab_size: int
) -> None:
    """Whether a model with room for so many tokens' keys and values can take it.

    Raises :class:`TooLarge` or :class:`InvalidInput`.
    """
    event = request.event
    longest = max(map(len, request.options), default=0)
    context = sum(request.lengths) + len(event) + longest
    if context > max_context_tokens:
        raise TooLarge(
            f"the prompt has {context} tokens, the model's context holds {max_context_tokens}",
            where="event",
        )
    if context > max_kv_tokens:
        distinct = {block.digest: len(block) for block in request.blocks}
        if sum(distinct.values()) + len(event) > max_kv_tokens:
            raise TooLarge(
                f"the prompt has {context} tokens, the KV memory holds {max_kv_tokens}; give it "
                "more (kv_memory_bytes, --kv-memory), or narrow `sees`",
                where="event",
            )
    given = (event, *request.options)
    lowest = min(int(ids.min(initial=0)) for ids in given)
    highest = max((b.highest for b in request.blocks), default=0)
    highest = max(highest, *(int(ids.max(initial=0)) for ids in given))
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise InvalidInput(
            f"token id {wrong} is outside the vocabulary of {vocab_size}", where="event"
        )

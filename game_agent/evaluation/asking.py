"""Records to replies: many at once, greedily, in one of the ways."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from game_agent.engine import Completion, Engine, Request, Waiter
from game_agent.engine.contextual import REPAIR_TOKENS, ContextualCache
from game_agent.errors import GameAgentError
from game_agent.evaluation.prompts import Prompts, edited
from game_agent.evaluation.records import Record
from game_agent.evaluation.ways import Way


@dataclass(frozen=True)
class Replying:
    """How replies are made.

    max_tokens:    most tokens of one
    stop:          texts that end it, besides the prompt format's own end
    repair_tokens: of contextual mode, see ``EngineSettings``
    """

    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    repair_tokens: int = REPAIR_TOKENS


Reply = Completion | GameAgentError


class Asker:
    """Asks one model about records."""

    def __init__(
        self, engine: Engine, prompts: Prompts, replying: Replying, records: Sequence[Record]
    ) -> None:
        """records: all that may be asked about; contextual mode borrows a block of another one."""
        self._engine = engine
        self._prompts = prompts
        self._replying = replying
        self._neighbours = _neighbours(records)

    def ask(self, records: Sequence[Record], way: Way) -> Iterator[Reply]:
        """A reply for each record, in order, as they come; all are asked together, right away.

        It is an error where a record is too long to be asked.
        """
        requests = [self._request(record, way) for record in records]
        if way.mode == "contextual":
            pairs = zip(requests, records, strict=True)
            before = [self._moment_ago(request, record) for request, record in pairs]
            for waiter in list(map(self._submit, before)):
                _wait(waiter)
        return map(_wait, list(map(self._submit, requests)))

    def _request(self, record: Record, way: Way) -> Request:
        is_contextual = way.mode == "contextual"
        return Request(
            self._prompts.blocks(record),
            self._prompts.event(record),
            mode=way.mode,
            placement=way.placement,
            max_tokens=self._replying.max_tokens,
            stop=self._replying.stop,
            contextual=ContextualCache(self._replying.repair_tokens) if is_contextual else None,
        )

    def _moment_ago(self, request: Request, record: Record) -> Request:
        """The prompt before ``request`` in the same cache: one of its blocks was another."""
        spare = self._prompts.blocks(self._neighbours.get(record.id, record))[-1]
        blocks = edited(request.blocks, spare, random.Random(record.id))
        return replace(request, blocks=blocks, max_tokens=1)

    def _submit(self, request: Request) -> Waiter | GameAgentError:
        waiter = Waiter()
        try:
            self._engine.submit(request, waiter)
        except GameAgentError as error:
            return error
        return waiter


def _wait(waiter: Waiter | GameAgentError) -> Reply:
    if isinstance(waiter, GameAgentError):
        return waiter
    try:
        return waiter.wait()
    except GameAgentError as error:
        return error


def _neighbours(records: Sequence[Record]) -> dict[str, Record]:
    """For each record's id the next one, in a circle, that has other blocks."""
    found: dict[str, Record] = {}
    other: Record | None = None
    for record, following in reversed(list(pairwise([*records, *records]))):
        if following.blocks != record.blocks:
            other = following
        if other is not None:
            found[record.id] = other
    return found

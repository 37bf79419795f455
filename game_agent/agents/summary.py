"""Old turns summed up by the model itself, while nobody asks it anything."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence

from game_agent.agents.blockcache import BlockCache
from game_agent.agents.character import Character
from game_agent.agents.memory import Memory, Turn
from game_agent.agents.remembered import Remembered, event_text
from game_agent.agents.rendering import collapse
from game_agent.engine import Completion, Engine, Request
from game_agent.engine.request import Mode
from game_agent.errors import GameAgentError

log = logging.getLogger(__name__)

NARRATOR = "Narrator"
INSTRUCTION = (
    "Sum up in a few sentences what has happened so far: who said and did what, what was promised, "
    "and what is still open. Name names. Add nothing new."
)
MAX_SUMMARY_TOKENS = 160
RETRY_TURNS = 8
"""After a failure so many turns come before the next attempt."""


class Summarizer:
    """Sums up what no longer fits the prompts of one agent; the caller holds the agent's lock.

    The turns are in the store as a rule, as they were in prompts, so that little is encoded: the
    last summary, the instruction and the new one. What it makes is noted in the memory
    (``Turn.summary``), unless what it tells of was changed or forgotten meanwhile. A failure
    changes nothing: the oldest turns are left out of prompts, as they are without a summary.
    """

    def __init__(
        self, engine: Engine, cache: BlockCache, lock: threading.RLock, mode: Mode
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._lock = lock
        # What an agent's last prompt left must not be disturbed: full mode is as exact.
        self._mode: Mode = "full" if mode == "contextual" else mode
        self._is_busy = False
        self._retry_index = 0

    def consider(self, memory: Memory, character: Character, room: int) -> None:
        """Has the oldest turns summed up, if ``memory`` has outgrown ``room`` tokens."""
        if self._is_busy or memory.next_index < self._retry_index:
            return
        event = self._cache.encoder.event(event_text(NARRATOR, INSTRUCTION))
        max_tokens = min(MAX_SUMMARY_TOKENS, room // 4)
        remembered = Remembered(self._cache, memory, character.name)
        first = [self._cache.block(character.text, "character", first=True)]
        if (before := remembered.summary_block()) is not None:
            first.append(before)
        limit = self._engine.runner.max_context_tokens - len(event) - max_tokens
        turns = remembered.too_old(room, limit - sum(map(len, first)))
        if not turns or max_tokens < 1:
            return
        request = Request(
            (*first, *map(remembered.block, turns)),
            event,
            mode=self._mode,
            max_tokens=max_tokens,
            is_idle=True,
        )
        try:
            self._engine.submit(request, _Attempt(self, memory, memory.summed_up, turns))
        except GameAgentError as error:
            self.failed(memory, str(error))
        else:
            self._is_busy = True

    def finished(
        self, memory: Memory, before: Turn | None, turns: Sequence[Turn], text: str
    ) -> None:
        """The model has summed up ``turns`` and the summary that ``before`` had."""
        with self._lock:
            self._is_busy = False
            if not text:
                self.failed(memory, "the model said nothing")
                return
            is_same = memory.summed_up is before
            if is_same and all(memory.find(turn.index) is turn for turn in turns):
                memory.sum_up(turns[-1].index, text)

    def failed(self, memory: Memory, reason: str) -> None:
        """Nothing came of it; the next attempt is some turns later."""
        log.info("no summary of old turns: %s", reason)
        with self._lock:
            self._is_busy = False
            self._retry_index = memory.next_index + RETRY_TURNS


class _Attempt:
    """The engine's listener for one summary."""

    def __init__(
        self, summarizer: Summarizer, memory: Memory, before: Turn | None, turns: Sequence[Turn]
    ) -> None:
        self._summarizer = summarizer
        self._memory = memory
        self._before = before
        self._turns = turns

    def on_text(self, index: int, text: str) -> None:
        """Only the whole matters."""

    def on_done(self, completion: Completion) -> None:
        if completion.finish_reason in ("stop", "length"):
            text = whole_sentences(completion.text) if completion.finish_reason == "length" else ""
            text = collapse(text or completion.text)
            self._summarizer.finished(self._memory, self._before, self._turns, text)
        else:
            self._summarizer.failed(self._memory, completion.finish_reason)

    def on_error(self, error: GameAgentError) -> None:
        self._summarizer.failed(self._memory, str(error))


def whole_sentences(text: str) -> str:
    """``text`` up to the end of its last whole sentence; empty if it has none."""
    ends = [match.end() for match in re.finditer(r"[.!?。！？]+[\"'”’»)]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""

"""One request under way: the entries it holds, its own frame, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate

import numpy as np
import torch

from game_agent.blocks.block import SHARED_MODES, block_keys, chain_keys
from game_agent.blocks.pool import pages_for
from game_agent.blocks.store import BlockStore, Entry
from game_agent.blocks.tiers import Tiers, Wanted
from game_agent.engine.chance import Chance
from game_agent.engine.contextual import Draft, draft_prompt
from game_agent.engine.request import Choice, Listener, Request, Usage
from game_agent.engine.scoring import Scoring
from game_agent.model.flops import Flops
from game_agent.model.planner import Ints
from game_agent.model.runner import ModelRunner
from game_agent.text.stream import TextStream
from game_agent_kernels import Segments


@dataclass(frozen=True)
class Chunk:
    """Part of one step: the next ``num_tokens`` of a block, of an option, or of the own frame."""

    sequence: Sequence
    block: int | None
    num_tokens: int
    option: int | None = None


@dataclass(eq=False)
class Sequence:
    """A request and all that it has so far.

    The own frame holds the event and the reply; ``num_computed`` of its tokens have keys in pages.
    ``own_segments`` are those of the blocks and the own frame by the pages that it fills, kept for
    the next token. ``num_overtaken``: how many younger requests were taken up before it.
    """

    request: Request
    listener: Listener
    arrival: int
    submitted_s: float
    stream: TextStream
    entries: list[Entry] = field(default_factory=list)
    pages: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    tokens: list[int] = field(default_factory=list)
    num_computed: int = 0
    text: list[str] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    fetched: list[Entry] = field(default_factory=list)
    encoded: dict[int, int] = field(default_factory=dict)
    _flops: dict[tuple[int, int], int] = field(default_factory=dict)
    num_overtaken: int = 0
    admitted_s: float | None = None
    first_token_s: float | None = None
    max_tokens: int = 0
    num_forced: int = 0
    choice: Choice | None = None
    draft: Draft | None = None
    segments: dict[int, Segments] = field(default_factory=dict)
    own_segments: dict[int, Segments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = self.request.event.tolist()
        self.origins = np.array([0, *accumulate(self.request.lengths)], np.int64)
        self.shifts = np.zeros(len(self.request.blocks), np.int64)
        self.keys: list[bytes] = []
        self.constraint = self.request.grammar.begin() if self.request.grammar else None
        self.scoring = Scoring(self.request.options) if self.request.options else None

    @cached_property
    def chance(self) -> Chance:
        """What the reply's tokens are drawn with, where they are."""
        return Chance(self.request.sampling.seed)

    @property
    def num_block_tokens(self) -> int:
        return int(self.origins[-1])

    @property
    def is_framed(self) -> bool:
        """Whether each block, and the event, is a frame of its own; else the prompt is one."""
        return self.request.mode == "block"

    @property
    def event_origin(self) -> int:
        """Where in its frame the event begins."""
        return 0 if self.is_framed else self.num_block_tokens

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.request.event)

    @property
    def num_pending(self) -> int:
        """Tokens of the own frame that wait to be computed: the event, or the last one drawn."""
        return len(self.tokens) - self.num_computed

    def pending(self) -> Iterator[tuple[int | None, int]]:
        """What waits to be computed, in order: (None, tokens of the own frame), (option, tokens).

        An option's tokens attend to the whole own frame.
        """
        yield None, self.num_pending
        if self.scoring is not None:
            yield from self.scoring.pending()

    @property
    def decoding(self) -> bool:
        return self.num_generated > 0 and self.num_computed >= len(self.request.event)

    def unfilled(self) -> list[int]:
        """Indices of blocks that are not wholly encoded yet, in order, each entry once."""
        if self.num_computed:
            return []
        seen: set[int] = set()
        out = []
        for i, entry in enumerate(self.entries):
            if not entry.published and id(entry) not in seen:
                seen.add(id(entry))
                out.append(i)
        return out

    @property
    def num_missing_tokens(self) -> int:
        """Tokens that are to be computed before the next one can be drawn."""
        missing = (self.entries[index] for index in self.unfilled())
        return self.num_pending + sum(entry.num_missing for entry in missing)

    @property
    def num_own_pages(self) -> int:
        """Pages that the own frame needs to its end."""
        return pages_for(len(self.request.event) + self.max_tokens)

    def num_pages(self) -> int:
        """Pages that the own frame and all options need."""
        return self.num_own_pages + (self.scoring.num_pages() if self.scoring else 0)

    def admit(self, store: BlockStore, runner: ModelRunner, now_s: float) -> None:
        """Hold every block's entry, making the missing ones, and pages for the own frame.

        Raises ``MemoryError``, holding nothing, as :meth:`BlockStore.hold` does.
        """
        request = self.request
        # The last token of a reply is drawn but never computed, so it needs no position.
        room = runner.spec.max_context_tokens - self.num_block_tokens - len(request.event) + 1
        self.max_tokens = min(request.max_tokens, room)
        self._hold(store, runner)
        self.release_fetched(store)
        if self.scoring is not None:
            self.scoring.hold(self.pages[self.num_own_pages :])
        self.admitted_s = now_s
        self.usage = self._counted(runner.flops)

    def _hold(self, store: BlockStore, runner: ModelRunner) -> None:
        """Hold the entries, those that everybody shares or the asker's own."""
        request, num_pages = self.request, self.num_pages()
        flops = partial(self._encoding_flops, runner.flops)
        if request.contextual is not None:
            draft = draft_prompt(request.contextual, runner.digest, request.blocks, request.renewed)
            self.pages = draft.hold(store, num_pages, flops)
            self.draft, self.entries, self.encoded = draft, draft.entries, draft.computed
            origins = np.array([version.origin for version in draft.versions], np.int64)
            self.shifts = self.origins[:-1] - origins
            return
        if not self.keys:
            self.keys = self._shared_keys(runner)
        lengths = request.lengths
        self.entries, made, self.pages = store.hold(self.keys, lengths, num_pages, flops)
        self.encoded = {index: lengths[index] for index in made}

    def _shared_keys(self, runner: ModelRunner) -> list[bytes]:
        keys = block_keys(runner.digest, self.request.blocks, self.request.mode)
        if self.request.has_sink:
            # Read alone, which a block of the same text is not.
            keys[:1] = chain_keys(runner.digest, self.request.blocks[:1])
        return keys

    def in_tiers(self, store: BlockStore, tiers: Tiers, runner: ModelRunner) -> list[Wanted]:
        """Blocks that are not in the store but below it."""
        if self.request.mode not in SHARED_MODES:
            return []
        self.keys = self._shared_keys(runner)
        return [
            Wanted(key, len(self.request.blocks[i]), self._encoding_flops(runner.flops, i))
            for i, key in enumerate(self.keys)
            if key not in store and key in tiers
        ]

    def _encoding_flops(self, flops: Flops, index: int, num_tokens: int | None = None) -> int:
        """What it takes to encode a block of this prompt, or its first ``num_tokens``."""
        count = num_tokens or len(self.request.blocks[index])
        num_before = self.num_sink(index) if self.is_framed else int(self.origins[index])
        known = self._flops.get((count, num_before))
        if known is None:
            known = self._flops[count, num_before] = flops.forward(count, num_before)
        return known

    def release_fetched(self, store: BlockStore) -> None:
        """Give back what was held of blocks that a tier had."""
        store.release_all(self.fetched)
        self.fetched = []

    def release(self, store: BlockStore) -> None:
        """Give back all that is held."""
        self.release_fetched(store)
        if self.draft is not None:
            self.draft.close(store)
        else:
            store.release_all(self.entries)
        store.free(self.pages)
        self.entries, self.encoded, self.draft = [], {}, None
        self.pages = np.empty(0, np.int32)

    def _counted(self, flops: Flops) -> Usage:
        lengths = np.diff(self.origins)
        encoded = sum(self.encoded.values())
        event = len(self.request.event)
        num_logits = event if self.request.score else min(event, 1)
        done = sum(self._encoding_flops(flops, i, count) for i, count in self.encoded.items())
        done += flops.forward(event, self.num_block_tokens, num_logits)
        full = flops.forward(self.num_block_tokens + event, 0, num_logits) if event else 0
        prefill = event
        for count in self.scoring.lengths() if self.scoring else ():
            cost = flops.forward(count, self.num_block_tokens + event, count)
            prefill, done, full = prefill + count, done + cost, full + cost
        return Usage(
            context_tokens=self.num_block_tokens + prefill,
            cached_tokens=self.num_block_tokens - encoded,
            encoded_tokens=encoded,
            prefill_tokens=prefill,
            blocks=len(lengths),
            blocks_encoded=len(self.encoded),
            flops=done,
            full_flops=full,
        )

    def num_sink(self, index: int) -> int:
        """Tokens of the sink that a block is encoded behind."""
        return len(self.request.blocks[0]) if self.request.has_sink and index else 0

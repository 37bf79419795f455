"""Contextual mode: what one agent's last prompt left, and what the next prompt can take over.

For models that were never taught to read blocks encoded alone. A block's keys and values come from
a causal encoding of some earlier prompt and are *moved*, not recomputed, when text before them
changes. Where a *stretch* of moved blocks begins, its first tokens are computed anew ("edit
repair"): they have the most to do with what changed right before them. That is approximate; what is
left approximate is refreshed in idle time.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from game_agent.blocks.block import Block, chain_keys
from game_agent.blocks.store import BlockStore, Entry, Ints

REPAIR_TOKENS = 128


@dataclass(frozen=True)
class Version:
    """A block's keys and values as one prompt of one agent had them.

    key:    of its entry in the store; nobody else has it
    origin: prompt position of its first token when its keys were rotated
    exact:  chain key of the prompt up to its end for which full mode would give the same, or None
    """

    block: Block
    key: bytes
    origin: int
    exact: bytes | None


@dataclass(frozen=True)
class Piece:
    """What a prompt does for one block: take ``version`` over, if any, and compute the first
    ``num_computed`` tokens; all of them where nothing is taken over."""

    version: Version | None
    num_computed: int


def plan_pieces(
    last: Sequence[Version | None],
    blocks: Sequence[Block],
    chain: Sequence[bytes],
    repair_tokens: int,
) -> list[Piece]:
    """How to make ``blocks`` out of the ``last`` prompt's versions.

    A stretch is a run of blocks that followed on each other in the last prompt too. The first
    ``repair_tokens`` of each are computed anew, unless it begins the prompt as it did before; what
    is exact in this prompt never is.
    """
    pieces = []
    before, left = -1, 0
    for block, key, at in zip(blocks, chain, match(last, blocks), strict=True):
        version = None if at is None else last[at]
        if version is None or at is None:
            pieces.append(Piece(None, len(block)))
            before = -2  # whatever follows, it did not follow on this
            continue
        if at != before + 1:
            left = repair_tokens
        count = 0 if version.exact == key else min(left, len(block))
        pieces.append(Piece(version, count))
        left -= min(left, len(block))
        before = at
    return pieces


def match(last: Sequence[Version | None], blocks: Sequence[Block]) -> list[int | None]:
    """For each block the place in ``last`` of a version of the same text; each is used once.

    The one that follows on the match before is preferred, so that equal blocks do not cut a
    stretch in two; else the first in order.
    """
    places: dict[bytes, deque[int]] = {}
    for at, version in enumerate(last):
        if version is not None:
            places.setdefault(version.block.digest, deque()).append(at)
    found: list[int | None] = []
    following = 0
    for block in blocks:
        free = places.get(block.digest)
        if not free:
            found.append(None)
            continue
        at = following if following in free else free[0]
        free.remove(at)
        found.append(at)
        following = at + 1
    return found


@dataclass(eq=False)
class ContextualCache:
    """The versions of one agent's last prompt. Changed by the engine's thread only.

    They lie in the store under keys that nobody else knows, so memory may take them back as it
    does any block; they are then encoded with the next prompt.

    repair_tokens: how many first tokens of each stretch are computed anew
    chain: the last prompt's chain keys, by which it is known which versions are exact in it
    """

    repair_tokens: int = REPAIR_TOKENS
    versions: tuple[Version | None, ...] = ()
    chain: tuple[bytes, ...] = ()
    _name: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    _num_keys: int = 0

    def new_key(self) -> bytes:
        """A key that was never used."""
        self._num_keys += 1
        return b"c" + self._name + self._num_keys.to_bytes(8, "little")

    def keys(self, blocks: Sequence[Block]) -> list[bytes | None]:
        """Keys of what ``blocks`` would take over; None where there is nothing."""
        last = self.versions
        found = (None if at is None else last[at] for at in match(last, blocks))
        return [None if version is None else version.key for version in found]

    def stale(self, store: BlockStore) -> int | None:
        """The first block that is not exact in the last prompt; None if all are.

        What memory took back ends the search: it is not worth encoding while nobody asks.
        """
        for at, (version, key) in enumerate(zip(self.versions, self.chain, strict=True)):
            if version is None or version.key not in store:
                return None
            if version.exact != key:
                return at
        return None

    def settle(self, draft: Draft, done: list[Version | None], store: BlockStore) -> None:
        """Take a draft's ``done`` versions for the last prompt's; drop what nobody needs now.

        What ended early counts only if it holds more than there was, so that prompts which never
        end in time get ready at last; a refresh only if no other prompt came meanwhile.
        """
        before = self.versions
        if draft.is_refresh and self.versions is draft.base:
            rest = draft.base[len(done) :]
            done = [new or old for new, old in zip(done, draft.base, strict=False)]
            self.versions = (*done, *rest)
        elif not draft.is_refresh and (None not in done or _size(done) > _size(self.versions)):
            self.versions, self.chain = tuple(done), tuple(draft.chain)
        kept = {version.key for version in self.versions if version is not None}
        for version in (*before, *draft.versions):
            if version is not None and version.key not in kept:
                store.discard(version.key)


def _size(versions: Iterable[Version | None]) -> int:
    return sum(len(version.block) for version in versions if version is not None)


@dataclass(eq=False)
class Draft:
    """A prompt that is being made ready on an agent's cache.

    pieces:   what is to be done for each block
    base:     the versions that it was planned on
    entries, versions: of each block, once they are held
    computed: of which blocks how many first tokens are to be computed
    """

    cache: ContextualCache
    blocks: Sequence[Block]
    chain: list[bytes]
    pieces: list[Piece]
    base: tuple[Version | None, ...]
    is_refresh: bool
    entries: list[Entry] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    computed: dict[int, int] = field(default_factory=dict)

    def hold(self, store: BlockStore, num_frame_pages: int, flops: Callable[[int], float]) -> Ints:
        """Hold an entry for each block; returns pages for a frame, as ``BlockStore.hold`` does.

        Raises ``MemoryError``, holding nothing, when there is no room.
        """
        try:
            return self._hold(store, num_frame_pages, flops, self.pieces)
        except MemoryError:
            # A copy needs room beside what it is copied from; to compute the whole block does not.
            whole = [replace(p, version=None) if p.num_computed else p for p in self.pieces]
            return self._hold(store, num_frame_pages, flops, whole)

    def _hold(
        self,
        store: BlockStore,
        num_frame_pages: int,
        flops: Callable[[int], float],
        pieces: list[Piece],
    ) -> Ints:
        # What is there is held first, so that making room for the rest cannot evict it.
        sources = [None if p.version is None else store.acquire(p.version.key) for p in pieces]
        try:
            self.versions = self._new_versions(pieces, sources)
            keys = [version.key for version in self.versions]
            holding = store.hold(keys, list(map(len, self.blocks)), num_frame_pages, flops)
            self.entries = holding.entries
            for i in holding.made:
                self._begin(store, i, pieces[i], sources[i])
        finally:
            store.release_all(source for source in sources if source is not None)
        return holding.frame

    def _new_versions(self, pieces: list[Piece], sources: list[Entry | None]) -> list[Version]:
        """A version of each block: one that is there, or one with a new key."""
        versions = []
        origin, is_exact = 0, True
        for i, (block, piece, source) in enumerate(zip(self.blocks, pieces, sources, strict=True)):
            old = None if source is None else piece.version
            if old is None or piece.num_computed == len(block):
                exact = self.chain[i] if is_exact else None
                version = Version(block, self.cache.new_key(), origin, exact)
            elif piece.num_computed:
                version = replace(old, key=self.cache.new_key(), exact=None)
            else:
                version = old
            versions.append(version)
            is_exact = is_exact and version.exact == self.chain[i]
            origin += len(block)
        return versions

    def _begin(self, store: BlockStore, index: int, piece: Piece, source: Entry | None) -> None:
        """Fill what a new entry takes over: a copy, since somebody may be reading the old one."""
        entry = self.entries[index]
        if source is not None:
            entry.num_copied = entry.num_tokens - piece.num_computed
            if entry.num_copied:
                store.pool.copy(source.pages, entry.pages)
        self.computed[index] = entry.num_missing

    def close(self, store: BlockStore) -> None:
        """Give back all entries; what is complete is the agent's from now on."""
        done = [
            version if entry.published else None
            for version, entry in zip(self.versions, self.entries, strict=True)
        ]
        store.release_all(self.entries)
        self.cache.settle(self, done, store)


def draft_prompt(
    cache: ContextualCache, model: bytes, blocks: Sequence[Block], renewed: range | None = None
) -> Draft:
    """Plan what ``blocks`` take over from ``cache``.

    With ``renewed``, those blocks are computed whole and the others left as they are: a refresh.
    """
    chain = chain_keys(model, blocks)
    pieces = plan_pieces(cache.versions, blocks, chain, 0 if renewed else cache.repair_tokens)
    for i in renewed or ():
        pieces[i] = Piece(None, len(blocks[i]))
    return Draft(cache, blocks, chain, pieces, cache.versions, renewed is not None)

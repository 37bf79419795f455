"""Pages and entries under random operations: nothing is lost, shared twice, or evicted in use."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from game_agent.blocks.block import Block, block_key, block_keys, chain_keys
from game_agent.blocks.pool import PagePool, pages_for, touch_first_pages
from game_agent.blocks.store import BlockStore, Entry

NUM_PAGES = 24


def small_store() -> BlockStore:
    return BlockStore(PagePool(NUM_PAGES, num_layers=1, num_kv_heads=1, head_dim=2))


class StoreMachine(RuleBasedStateMachine):
    """Holders acquire, fill and release entries in any order, and take frames of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.store = small_store()
        self.held: list[Entry] = []
        self.frames: list[np.ndarray] = []

    @rule(name=st.integers(0, 9), tokens=st.integers(1, 90))
    def hold(self, name: int, tokens: int) -> None:
        key = b"%d" % name
        available = self.store.num_available_pages
        entry = self.store.acquire(key)
        if entry is None:
            try:
                entry = self.store.reserve(key, tokens)
            except MemoryError:
                assert pages_for(tokens) > available
                return
            assert len(entry.pages) == pages_for(tokens)
        assert entry.key == key
        self.held.append(entry)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.held))
        left = entry.num_tokens - entry.num_filled
        entry.num_filled += data.draw(st.integers(0, left))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        entry = self.held.pop(index)
        was_published = entry.published
        self.store.release(entry)
        still_held = any(e is entry for e in self.held)
        assert (entry.key in self.store) == was_published
        if not still_held and not was_published:
            assert self.store.acquire(entry.key) is None

    @rule(count=st.integers(0, 8))
    def take_frame(self, count: int) -> None:
        if count <= self.store.num_available_pages:
            self.frames.append(self.store.allocate(count))
        else:
            with pytest.raises(MemoryError):
                self.store.allocate(count)

    @precondition(lambda self: self.frames)
    @rule()
    def give_frame(self) -> None:
        self.store.free(self.frames.pop())

    @invariant()
    def held_entries_keep_their_pages(self) -> None:
        for entry in self.held:
            again = self.store.acquire(entry.key)
            assert again is entry
            self.store.release(entry)

    @invariant()
    def every_page_has_one_owner(self) -> None:
        store = self.store
        in_use = [int(p) for e in store._entries.values() for p in e.pages]
        in_use += [int(p) for frame in self.frames for p in frame]
        assert len(set(in_use)) == len(in_use)
        assert len(in_use) + store.pool.num_free == NUM_PAGES
        unused = [e for e in store._entries.values() if e.num_refs == 0]
        assert store.num_available_pages == store.pool.num_free + sum(len(e.pages) for e in unused)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux backs memory on demand")
def test_touching_pages_ahead_keeps_what_they_hold() -> None:
    pool = PagePool(300, num_layers=2, num_kv_heads=1, head_dim=8)
    pool.keys.fill_(7.0)
    pool.values.fill_(8.0)
    thread = touch_first_pages(pool)
    assert thread is not None
    thread.join()
    assert bool((pool.keys == 7.0).all())
    assert bool((pool.values == 8.0).all())


def test_the_least_recently_used_goes_first() -> None:
    store = small_store()
    for name in (b"a", b"b", b"c"):
        entry = store.reserve(name, 8 * 16)
        entry.num_filled = entry.num_tokens
        store.release(entry)
    used = store.acquire(b"a")
    assert used is not None
    store.release(used)
    store.allocate(8)
    assert [key in store for key in (b"a", b"b", b"c")] == [True, False, True]


def test_keys_name_what_kv_depends_on() -> None:
    rng = random.Random(0)
    a, b, c = (Block(np.array([rng.randrange(99) for _ in range(5)], np.int32)) for _ in range(3))
    assert block_key(b"m", a) == block_key(b"m", Block(a.tokens.copy(), "elsewhere"))
    assert len({block_key(m, x) for m in (b"m", b"n") for x in (a, b, c)}) == 6
    first, second = chain_keys(b"m", [a, b, c]), chain_keys(b"m", [a, c, b])
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[2] != second[2]
    assert block_key(b"m", a) not in first
    assert block_keys(b"m", [a, b], "block") == [block_key(b"m", a), block_key(b"m", b)]
    assert block_keys(b"m", [a, b, c], "full") == first
    assert {key[:1] for key in first} == {b"f"}

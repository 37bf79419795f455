"""Pages and entries under random operations: nothing is lost, shared twice, or evicted in use."""

from __future__ import annotations

import random
import sys
from collections import Counter
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from game_agent.blocks.block import Block, block_key, block_keys, chain_keys
from game_agent.blocks.eviction import EvictionOrder
from game_agent.blocks.pool import PagePool, pages_for, touch_first_pages
from game_agent.blocks.store import BlockStore, Entry, NeverFits

NUM_PAGES = 24
NAMES = st.integers(0, 9)
LENGTHS = {b"%d" % name: 1 + 37 * name % 90 for name in range(10)}


def small_store() -> BlockStore:
    return BlockStore(PagePool(NUM_PAGES, num_layers=1, num_kv_heads=1, head_dim=2))


class StoreMachine(RuleBasedStateMachine):
    """Holders take, fill and give back in any order, beside frames, pins and adopted entries."""

    def __init__(self) -> None:
        super().__init__()
        self.store = small_store()
        self.held: list[Entry] = []
        self.frames: list[np.ndarray] = []
        self.pins: Counter[bytes] = Counter()
        self.kept: set[bytes] = set()

    def present(self) -> dict[bytes, Entry]:
        return self.store._entries

    @rule(names=st.lists(NAMES, max_size=6), frame=st.integers(0, 3), cost=st.integers(0, 10**6))
    def hold(self, names: list[int], frame: int, cost: int) -> None:
        keys = [b"%d" % name for name in names]
        before = dict(self.present())
        absent = {key for key in keys if key not in before}
        num_new = sum(pages_for(LENGTHS[key]) for key in absent) + frame
        kept = {key for key in before if key in keys or key in self.pins or before[key].num_refs}
        room = NUM_PAGES - sum(before[key].num_pages for key in kept)
        room -= sum(len(pages) for pages in self.frames)
        free, evicted = self.store.pool.num_free, self.store.num_evicted
        refs = {key: before[key].num_refs for key in before}
        try:
            got = self.store.hold(keys, [LENGTHS[key] for key in keys], frame, lambda _: cost)
        except MemoryError as caught:
            error = caught
            alone = {key for key in before if key in keys or key in self.pins}
            num_alone = num_new + sum(before[key].num_pages for key in alone)
            assert num_new > room
            assert type(error) is (NeverFits if num_alone > NUM_PAGES else MemoryError)
            assert {key: entry.num_refs for key, entry in self.present().items()} == refs
            assert (self.store.pool.num_free, self.store.num_evicted) == (free, evicted)
            return
        assert num_new <= room
        assert [entry.key for entry in got.entries] == keys
        assert {keys[i] for i in got.made} == absent
        assert len(got.made) == len(absent)
        assert all(before[key] is self.present()[key] for key in keys if key not in absent)
        assert len(got.frame) == frame
        self.held += got.entries
        self.frames.append(got.frame)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.held))
        left = entry.num_tokens - entry.num_filled
        entry.num_filled += data.draw(st.integers(0, left))

    @rule(name=st.integers(0, 9))
    def discard(self, name: int) -> None:
        key = b"%d" % name
        in_use = any(entry.key == key for entry in self.held)
        self.store.discard(key)
        assert in_use or key in self.pins or key not in self.store

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

    @rule(name=NAMES, cost=st.integers(0, 10**6))
    def adopt(self, name: int, cost: int) -> None:
        key = b"%d" % name
        count = pages_for(LENGTHS[key])
        if count > self.store.num_available_pages:
            return
        pages = self.store.allocate(count)
        before = self.present().get(key)
        entry = self.store.adopt(key, LENGTHS[key], pages, cost)
        assert entry is self.present()[key]
        assert entry is before if before else entry.published
        self.held.append(entry)

    @rule(name=NAMES)
    def pin(self, name: int) -> None:
        key = b"%d" % name
        pinned = sum(pages_for(LENGTHS[k]) for k in self.pins)
        fits = key in self.pins or pinned + pages_for(LENGTHS[key]) <= NUM_PAGES // 2
        assert self.store.pin(key, LENGTHS[key]) == fits
        if fits:
            self.pins[key] += 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.pins)))
        self.store.unpin(key)
        self.pins[key] -= 1
        self.pins += Counter()  # keeps what is above 0

    @invariant()
    def held_entries_keep_their_pages(self) -> None:
        for entry in self.held:
            again = self.store.acquire(entry.key)
            assert again is entry
            self.store.release(entry)

    @invariant()
    def every_page_has_one_owner(self) -> None:
        store = self.store
        in_use = [int(p) for e in self.present().values() for p in e.pages]
        in_use += [int(p) for frame in self.frames for p in frame]
        assert len(set(in_use)) == len(in_use)
        assert len(in_use) + store.pool.num_free == NUM_PAGES
        unused = [e for e in self.present().values() if e.num_refs == 0 and e.key not in self.pins]
        assert store.num_available_pages == store.pool.num_free + sum(e.num_pages for e in unused)
        assert all(e.published for e in unused)

    @invariant()
    def pinned_entries_stay(self) -> None:
        kept = {key for key in self.pins if key in self.store}
        assert self.kept & set(self.pins) <= kept
        self.kept = kept


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def filled(store: BlockStore, names: list[bytes], num_tokens: int, flops: float = 0.0) -> None:
    """Entries that were used once, one after another."""
    for name in names:
        held = store.hold([name], [num_tokens], 0, lambda _: flops)
        held.entries[0].num_filled = num_tokens
        store.release_all(held.entries)


def used_again(store: BlockStore, name: bytes) -> None:
    entry = store.acquire(name)
    assert entry is not None
    store.release(entry)


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
    names = [b"a", b"b", b"c"]
    filled(store, names, 8 * 16)
    used_again(store, b"a")
    store.free(store.allocate(8))
    assert [name in store for name in names] == [True, False, True]


def test_what_costs_much_per_page_outlives_what_was_used_a_little_later() -> None:
    store = small_store()
    filled(store, [b"dear"], 16, flops=6e6)
    cheap = [b"%d" % i for i in range(NUM_PAGES - 1)]
    filled(store, cheap, 16, flops=1e6)
    store.free(store.allocate(4))
    assert b"dear" in store
    assert [name in store for name in cheap[:5]] == [False] * 4 + [True]
    # Never used again, it goes in the end all the same: the others come and go about six times.
    rounds = 0
    while b"dear" in store:
        filled(store, [b"%d/%d" % (rounds, i) for i in range(NUM_PAGES - 1)], 16, flops=1e6)
        rounds += 1
    assert 4 <= rounds <= 8


def plain_greedy_dual(kinds: dict[bytes, int], steps: list[tuple[bytes, int]]) -> list[bytes]:
    """The rule itself on a plain dict: the least of age + worth goes; of equals, the oldest."""
    age, priorities, gone = 0.0, {}, []
    for name, num_evicted in steps:
        priorities.pop(name, None)
        priorities[name] = age + 2.0 ** (kinds[name] / 2)
        for _ in range(min(num_evicted, len(priorities))):
            victim = min(priorities, key=lambda each: (priorities[each], kinds[each]))
            age = priorities.pop(victim)
            gone.append(victim)
    return gone


@given(
    classes=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    uses=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2)), max_size=60),
)
def test_the_order_is_greedy_dual(classes: list[int], uses: list[tuple[int, int]]) -> None:
    steps = [(b"%d" % (i % len(classes)), count) for i, count in uses]
    order = EvictionOrder()
    page = np.zeros(1, np.int32)
    entries = {
        b"%d" % i: Entry(b"%d" % i, 1, page, worth_class=kind) for i, kind in enumerate(classes)
    }
    there: set[bytes] = set()
    gone: list[bytes] = []
    for name, count in steps:
        if name in there:
            order.remove(entries[name])
        order.add(entries[name])
        there.add(name)
        victims = [cast(Entry, each).key for each in order.take(min(count, len(there)))]
        there -= set(victims)
        gone += victims
        assert order.num_pages == len(there)
    kinds = {b"%d" % i: kind for i, kind in enumerate(classes)}
    assert gone == plain_greedy_dual(kinds, steps)


def test_pins_hold_at_most_half_of_the_memory() -> None:
    store = small_store()
    filled(store, [b"a", b"b"], 6 * 16)
    assert store.pin(b"a", 6 * 16)
    assert store.pin(b"later", 6 * 16)
    assert not store.pin(b"b", 6 * 16)
    store.free(store.allocate(18))
    assert [name in store for name in (b"a", b"b")] == [True, False]
    with pytest.raises(NeverFits, match="19 pages wanted, there are 24 beside 6 that are pinned"):
        store.hold([b"c"], [19 * 16])
    filled(store, [b"later"], 6 * 16)
    store.free(store.allocate(12))
    store.unpin(b"a")
    store.free(store.allocate(18))
    assert [name in store for name in (b"a", b"later")] == [False, True]


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


def test_pages_are_copied_in_every_layer() -> None:
    pool = PagePool(8, num_layers=2, num_kv_heads=3, head_dim=4)
    for tensor in (pool.keys, pool.values):
        tensor.copy_(torch.randn(tensor.shape))
    before = pool.keys.clone(), pool.values.clone()
    pool.copy(np.array([5, 2], np.int32), np.array([1, 7], np.int32))
    for tensor, old in zip((pool.keys, pool.values), before, strict=True):
        assert torch.equal(tensor[:, [1, 7]], old[:, [5, 2]])
        assert torch.equal(tensor[:, [0, 2, 3, 4, 5, 6]], old[:, [0, 2, 3, 4, 5, 6]])


def test_a_copied_tail_need_not_be_filled() -> None:
    entry = small_store().hold([b"a"], [20]).entries[0]
    entry.num_copied = 15
    assert (entry.num_missing, entry.published) == (5, False)
    entry.num_filled = 5
    assert entry.published

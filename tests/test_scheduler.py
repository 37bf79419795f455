"""Who is taken up, and what a step computes. The sequences are real, nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from game_agent.blocks.block import Block
from game_agent.blocks.store import Entry
from game_agent.engine.request import Request
from game_agent.engine.scheduler import BESIDE_OTHERS, MAX_OVERTAKEN, admission_order, select
from game_agent.engine.sequence import Chunk, Sequence
from game_agent.engine.waiter import Waiter

NO_STREAM: Any = None


def entry(num_tokens: int) -> Entry:
    return Entry(b"", num_tokens, np.empty(0, np.int32))


def sequence(
    arrival: int,
    entries: Seq[Entry] = (),
    event: int = 1,
    *,
    peer: str = "",
    priority: int = 0,
    num_drawn: int = 0,
) -> Sequence:
    """One that holds ``entries``; ``num_drawn`` tokens of its reply are there."""
    blocks = tuple(Block(np.ones(each.num_tokens, np.int32)) for each in entries)
    request = Request(
        blocks or ((Block(np.ones(1, np.int32)),) if not event else ()),
        np.ones(event, np.int32),
        max_tokens=9 if event else 0,
        priority=priority,
        peer=peer,
    )
    out = Sequence(request, Waiter(), arrival, 0.0, NO_STREAM)
    out.entries = list(entries)
    out.tokens += [1] * num_drawn
    out.num_computed = max(0, len(out.tokens) - 1) if num_drawn else 0
    return out


def count(chunks: list[Chunk], which: Sequence) -> int:
    return sum(chunk.num_tokens for chunk in chunks if chunk.sequence is which)


def compute(chunks: list[Chunk]) -> None:
    """What the engine does with chunks, without drawing tokens."""
    for chunk in chunks:
        if chunk.block is None:
            chunk.sequence.num_computed += chunk.num_tokens
        else:
            chunk.sequence.entries[chunk.block].num_filled += chunk.num_tokens


def is_ready(which: Sequence) -> bool:
    return not which.num_pending and not which.unfilled()


@st.composite
def crowds(draw: st.DrawFn) -> list[Sequence]:
    """Sequences that share some entries, at any stage."""
    shared = [entry(n) for n in draw(st.lists(st.integers(1, 60), min_size=1, max_size=5))]
    for each in shared:
        each.num_filled = draw(st.integers(0, each.num_tokens))
    out = []
    for arrival in range(draw(st.integers(1, 12))):
        own = [entry(n) for n in draw(st.lists(st.integers(1, 60), max_size=2))]
        entries = draw(st.permutations(own + draw(st.lists(st.sampled_from(shared), max_size=3))))
        is_reply = draw(st.booleans()) and all(each.published for each in entries)
        out.append(
            sequence(
                arrival,
                entries,
                event=draw(st.integers(1, 30))
                if is_reply or not entries
                else draw(st.integers(0, 30)),
                peer=draw(st.sampled_from("abc")),
                priority=draw(st.integers(-2, 2)),
                num_drawn=int(is_reply),
            )
        )
    return out


@settings(deadline=None)
@given(crowd=crowds(), step_tokens=st.integers(12, 200), idle_tokens=st.integers(1, 80))
def test_a_step_is_as_full_as_it_may_be_and_in_order(
    crowd: list[Sequence], step_tokens: int, idle_tokens: int
) -> None:
    chunks = select(crowd, step_tokens, idle_tokens)
    assert sum(chunk.num_tokens for chunk in chunks) <= step_tokens
    background = [each for each in crowd if each.request.is_background]
    assert sum(count(chunks, each) for each in background) <= idle_tokens
    for each in crowd:
        if each.decoding:
            assert count(chunks, each) == 1
    waiting = [each for each in crowd if not each.decoding and not each.num_computed]
    compute(chunks)
    for each in crowd:
        assert each.num_pending >= 0
        assert all(e.num_filled <= e.num_tokens for e in each.entries)
    for each in waiting:
        # An event never comes before its blocks.
        assert not each.num_computed or all(e.published for e in each.entries)
    if sum(chunk.num_tokens for chunk in chunks) < step_tokens:
        assert all(is_ready(each) for each in crowd if each not in background)


@settings(deadline=None, max_examples=50)
@given(
    num_peers=st.integers(1, 6),
    step_tokens=st.integers(16, 300),
    lines=st.data(),
)
def test_peers_get_equal_shares_whatever_they_ask_for(
    num_peers: int, step_tokens: int, lines: st.DataObject
) -> None:
    crowd = []
    wanted = {}
    for peer in "abcdef"[:num_peers]:
        events = lines.draw(st.lists(st.integers(1, 400), min_size=1, max_size=6))
        wanted[peer] = sum(events)
        crowd += [sequence(0, event=n, peer=peer) for n in events]
    for arrival, each in enumerate(lines.draw(st.permutations(crowd))):
        each.arrival = arrival
    got = dict.fromkeys(wanted, 0)
    for chunk in select(crowd, step_tokens, 1):
        got[chunk.sequence.request.peer] += chunk.num_tokens
    assert sum(got.values()) == min(step_tokens, sum(wanted.values()))
    # The oldest prompt has its eighth beforehand.
    share = step_tokens - step_tokens // 8
    for peer, num_tokens in got.items():
        assert num_tokens >= min(wanted[peer], share // num_peers)


def test_a_short_question_does_not_wait_for_another_peers_long_ones() -> None:
    flood = [sequence(n, [entry(1000)], peer="flood") for n in range(20)]
    asked = sequence(20, [entry(50)], event=10, peer="other")
    chunks = select([*flood, asked], 256, 64)
    assert count(chunks, asked) == 60
    assert count(chunks, flood[0]) == 196


def test_higher_priorities_come_first_but_the_oldest_goes_on() -> None:
    old = sequence(0, event=500, priority=0)
    young = sequence(1, event=500, priority=5)
    chunks = select([old, young], 80, 64)
    assert (count(chunks, old), count(chunks, young)) == (10, 70)


def test_blocks_that_nobody_waits_for_come_in_small_pieces() -> None:
    warm = [sequence(n, [entry(500)], event=0) for n in range(3)]
    assert sum(chunk.num_tokens for chunk in select(warm, 2048, 64)) == 64
    asked = sequence(3, event=30)
    chunks = select([*warm, asked], 2048, 64)
    assert count(chunks, asked) == 30
    assert sum(chunk.num_tokens for chunk in chunks) == 30 + BESIDE_OTHERS


@settings(deadline=None, max_examples=50)
@given(
    victim=st.builds(
        lambda blocks, event: (blocks, event),
        st.lists(st.integers(1, 100), min_size=1, max_size=3),
        st.integers(0, 60),
    ),
    newcomers=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    step_tokens=st.integers(8, 100),
    idle_tokens=st.integers(1, 50),
)
def test_no_prompt_starves(
    victim: tuple[list[int], int], newcomers: list[int], step_tokens: int, idle_tokens: int
) -> None:
    """However much comes at higher priority, in every step, for ever."""
    blocks, event = victim
    old = sequence(0, [entry(n) for n in blocks], event, priority=-9, peer="a")
    crowd = [old]
    num_steps = 0
    while not is_ready(old):
        num_steps += 1
        crowd += [
            sequence(num_steps, event=n, priority=9, peer=peer)
            for n, peer in zip(newcomers, "abcde", strict=False)
        ]
        chunks = select(crowd, step_tokens, idle_tokens)
        compute(chunks)
        crowd = [each for each in crowd if each is old or not is_ready(each)]
        assert num_steps <= sum(blocks) + event
    assert num_steps >= 1


@settings(deadline=None, max_examples=50)
@given(
    room=st.integers(1, 4),
    rate=st.integers(1, 3),
    event=st.sampled_from([0, 1]),
    peers=st.lists(st.sampled_from("ab"), min_size=1, max_size=5),
)
def test_no_waiting_request_is_overtaken_for_ever(
    room: int, rate: int, event: int, peers: list[str]
) -> None:
    old = sequence(0, event=event, priority=-9, peer="a")
    waiting, running = [old], []
    arrival = 0
    while old in waiting:
        for number in range(rate):
            arrival += 1
            peer = peers[(arrival + number) % len(peers)]
            waiting.append(sequence(arrival, priority=9, peer=peer))
        taken = admission_order(waiting, running)[:room]
        for each in taken:
            waiting.remove(each)
            for other in waiting:
                other.num_overtaken += other.arrival < each.arrival
        running = taken
        assert old.num_overtaken <= MAX_OVERTAKEN + room
    assert old in taken


def test_peers_take_turns_in_being_taken_up() -> None:
    flood = [sequence(n, peer="flood") for n in range(5)]
    others = [sequence(9, peer="a"), sequence(8, peer="b")]
    order = admission_order([*flood, *others], [sequence(99, peer="b")])
    names = [(each.request.peer, each.arrival) for each in order]
    assert names[:4] == [("flood", 0), ("a", 9), ("flood", 1), ("b", 8)]


def test_questions_are_taken_up_before_what_nobody_waits_for() -> None:
    warm = sequence(0, [entry(5)], event=0, priority=3)
    asked = sequence(1, priority=-3)
    assert admission_order([warm, asked], []) == [asked, warm]


def test_a_reply_under_way_is_hardly_slowed_by_what_nobody_waits_for() -> None:
    warm, talker = sequence(0, [entry(500)], event=0), sequence(1, num_drawn=3)
    chunks = select([warm, talker], 2048, 64)
    assert (count(chunks, talker), count(chunks, warm)) == (1, BESIDE_OTHERS)

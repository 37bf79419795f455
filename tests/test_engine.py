"""The step loop: reuse, batches, endings, and room."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import VOCAB, make_checkpoint

from game_agent.blocks.block import Block
from game_agent.blocks.pool import pages_for
from game_agent.clock import FakeClock
from game_agent.config import EngineSettings
from game_agent.engine import Completion, Engine, Request, Sampling
from game_agent.engine.waiter import Waiter
from game_agent.errors import GameAgentError, InvalidInput, Overloaded, TooLarge, Unavailable
from game_agent.model.runner import load_runner


def make_blocks(rng: random.Random, lengths: list[int]) -> tuple[Block, ...]:
    return tuple(Block(ids(rng, n)) for n in lengths)


def ids(rng: random.Random, n: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([rng.randrange(5, VOCAB) for _ in range(n)], np.int32)


def assert_pages_add_up(engine: Engine) -> None:
    """With nothing running, every page is free or holds a block."""
    pool = engine.runner.pool
    assert pool.num_free + engine.store.num_block_pages == pool.num_pages


def test_one_changed_block_of_300_is_the_only_one_encoded(engine: Engine) -> None:
    rng = random.Random(0)
    blocks = make_blocks(rng, [rng.randrange(10, 40) for _ in range(300)])
    event = ids(rng, 20)
    first, again = (engine.run([Request(blocks, event, max_tokens=1)])[0].usage for _ in range(2))
    assert (first.blocks, first.blocks_encoded, first.cached_tokens) == (300, 300, 0)
    assert (again.blocks_encoded, again.encoded_tokens) == (0, 0)
    steps_before = engine.metrics.snapshot()
    changed = (*blocks[:7], Block(ids(rng, 33)), *blocks[8:])
    usage = engine.run([Request(changed, event, max_tokens=1)])[0].usage
    assert (usage.blocks_encoded, usage.encoded_tokens, usage.prefill_tokens) == (1, 33, 20)
    assert usage.context_tokens == sum(len(b) for b in changed) + 20
    assert usage.context_tokens == usage.cached_tokens + usage.encoded_tokens + usage.prefill_tokens
    steps_after = engine.metrics.snapshot()
    # One pass: the changed block and the event, together and nothing else.
    assert steps_after["steps"] == steps_before["steps"] + 1  # type: ignore[operator]
    assert steps_after["step_tokens"] == steps_before["step_tokens"] + 53  # type: ignore[operator]
    assert_pages_add_up(engine)


def test_full_mode_encodes_what_follows_a_change(engine: Engine) -> None:
    rng = random.Random(1)
    blocks = make_blocks(rng, [20] * 10)
    event = ids(rng, 5)
    engine.run([Request(blocks, event, mode="full", max_tokens=1)])
    changed = (*blocks[:6], Block(ids(rng, 20)), *blocks[7:])
    usage = engine.run([Request(changed, event, mode="full", max_tokens=1)])[0].usage
    assert (usage.blocks_encoded, usage.cached_tokens) == (4, 120)


def test_blocks_are_shared_between_prompts_and_places(engine: Engine) -> None:
    rng = random.Random(2)
    shared = make_blocks(rng, [50, 30, 70])
    engine.run([Request((*make_blocks(rng, [9]), *shared), ids(rng, 4), max_tokens=1)])
    before = engine.store.num_block_pages
    other = make_blocks(rng, [25])
    usage = engine.run([Request((*shared[::-1], *other), ids(rng, 4), max_tokens=1)])[0].usage
    assert (usage.blocks_encoded, usage.encoded_tokens) == (1, 25)
    assert engine.store.num_block_pages == before + pages_for(25)


def test_the_same_block_twice_in_one_prompt_is_encoded_once(engine: Engine) -> None:
    rng = random.Random(3)
    block = make_blocks(rng, [40])[0]
    usage = engine.run([Request((block, block), ids(rng, 4), max_tokens=1)])[0].usage
    assert (usage.blocks_encoded, usage.encoded_tokens, usage.cached_tokens) == (1, 40, 40)


def eight_requests(rng: random.Random) -> list[Request]:
    shared = make_blocks(rng, [40, 17, 3])
    return [
        Request(
            (*make_blocks(rng, [rng.randrange(1, 60)]), *shared[: rng.randrange(4)]),
            ids(rng, rng.randrange(1, 30)),
            mode="full" if i % 3 == 0 else "block",
            max_tokens=rng.randrange(5, 20),
            sampling=Sampling(0.8, 0.9, seed=i) if i % 4 == 1 else Sampling(),
        )
        for i in range(8)
    ]


def test_a_batch_gives_the_same_tokens_as_one_by_one(tiny_checkpoint: Path) -> None:
    requests = eight_requests(random.Random(4))
    runner = load_runner(tiny_checkpoint, kv_memory_bytes=2**24)
    together = Engine(runner)
    batch = together.run(requests)
    together.close()
    alone: list[Completion] = []
    for request in requests:
        engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
        alone += engine.run([request])
        engine.close()
    differing = [i for i in range(8) if batch[i].tokens != alone[i].tokens]
    for i in differing:
        assert_tie(tiny_checkpoint, requests[i], batch[i].tokens, alone[i].tokens)
    assert [c.finish_reason for c in batch] == [c.finish_reason for c in alone]


def assert_tie(folder: Path, request: Request, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Different greedy tokens are allowed only where the two best logits all but agree."""
    assert request.sampling.temperature == 0.0
    at = next(i for i in range(min(len(a), len(b))) if a[i] != b[i])
    engine = Engine(load_runner(folder, kv_memory_bytes=2**24))
    event = [*request.event.tolist(), *a[:at]]
    logits = engine.logits([b.tokens.tolist() for b in request.blocks], event, request.mode)[-1]
    engine.close()
    best = torch.topk(logits, 2).values
    assert best[0] - best[1] < 1e-3


def test_seeds_repeat_and_differ(engine: Engine) -> None:
    rng = random.Random(5)
    blocks, event = make_blocks(rng, [20]), ids(rng, 5)

    def draw(seed: int) -> tuple[int, ...]:
        request = Request(blocks, event, max_tokens=12, sampling=Sampling(1.5, 1.0, seed))
        return engine.run([request])[0].tokens

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_stop_string_ends_a_reply_before_it(engine: Engine) -> None:
    rng = random.Random(6)
    blocks, event = make_blocks(rng, [20]), ids(rng, 5)
    whole = engine.run([Request(blocks, event, max_tokens=30)])[0].text
    stop = whole[8:10]
    cut = engine.run([Request(blocks, event, max_tokens=30, stop=(stop,))])[0]
    assert cut.finish_reason == "stop"
    assert cut.text == whole[: whole.index(stop)]


class Recorder(Waiter):
    """Keeps what it hears, and can hold the engine's thread in the first piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.first = threading.Event()

    def on_text(self, index: int, text: str) -> None:
        assert index == len(self.pieces)
        self.pieces.append(text)
        self.first.set()


def test_pieces_join_to_the_text(engine: Engine) -> None:
    rng = random.Random(7)
    recorder = Recorder()
    engine.submit(Request(make_blocks(rng, [20]), ids(rng, 5), max_tokens=40), recorder)
    completion = recorder.wait()
    assert "".join(recorder.pieces) == completion.text
    assert completion.usage.generated_tokens == len(completion.tokens) == 40
    assert completion.finish_reason == "length"


def test_cancel_ends_a_running_request_with_what_it_has(engine: Engine) -> None:
    rng = random.Random(8)
    recorder = Recorder()
    request = Request(make_blocks(rng, [20]), ids(rng, 5), max_tokens=10_000)
    handle = engine.submit(request, recorder)
    recorder.first.wait()
    handle.cancel()
    completion = recorder.wait()
    assert completion.finish_reason == "cancelled"
    assert "".join(recorder.pieces) == completion.text
    handle.cancel()  # too late is no error
    engine.run([Request(make_blocks(rng, [5]), ids(rng, 5), max_tokens=1)])
    assert_pages_add_up(engine)


def test_a_deadline_ends_a_request(tiny_checkpoint: Path) -> None:
    clock = FakeClock()
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), clock=clock)
    rng = random.Random(9)
    recorder = Recorder()
    request = Request(make_blocks(rng, [20]), ids(rng, 5), max_tokens=10_000, deadline_s=5.0)
    engine.submit(request, recorder)
    recorder.first.wait()
    clock.advance(6.0)
    assert recorder.wait().finish_reason == "deadline"
    late = Request(make_blocks(rng, [20]), ids(rng, 5), deadline_s=5.0)
    assert engine.run([late])[0].finish_reason == "deadline"
    engine.close()


def test_closing_ends_open_requests(tiny_checkpoint: Path) -> None:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
    rng = random.Random(10)
    recorder = Recorder()
    engine.submit(Request(make_blocks(rng, [20]), ids(rng, 5), max_tokens=10_000), recorder)
    recorder.first.wait()
    engine.close()
    assert recorder.wait().finish_reason == "cancelled"
    with pytest.raises(Unavailable):
        engine.run([Request(make_blocks(rng, [20]), ids(rng, 5))])


def test_too_long_for_the_context_is_refused_at_once(engine: Engine) -> None:
    rng = random.Random(11)
    with pytest.raises(TooLarge, match="16384"):
        engine.run([Request((), ids(rng, 16_385), max_tokens=1)])


def test_a_prompt_may_fill_the_context(engine: Engine) -> None:
    rng = random.Random(19)
    request = Request(make_blocks(rng, [1000] * 16), ids(rng, 384), max_tokens=9)
    assert engine.run([request])[0].usage.generated_tokens == 1


@pytest.mark.parametrize("token", [VOCAB, -1])
def test_a_token_outside_the_vocabulary_is_refused(engine: Engine, token: int) -> None:
    ids_with_it = np.array([7, token], np.int32)
    with pytest.raises(InvalidInput, match=f"token id {token} is outside the vocabulary"):
        engine.run([Request((), ids_with_it, max_tokens=1)])
    with pytest.raises(InvalidInput):
        engine.run([Request((Block(ids_with_it),), ids_with_it[:1], max_tokens=1)])


def test_a_block_needs_tokens() -> None:
    with pytest.raises(InvalidInput, match="at least one token"):
        Block(np.empty(0, np.int32))


def test_weights_that_give_no_numbers_fail_the_request_alone(engine: Engine) -> None:
    rng = random.Random(17)
    request = Request((), ids(rng, 5), max_tokens=3, sampling=Sampling(1.0, 1.0, 0))
    head = engine.runner.decoder.weights.head.weight
    good = head.clone()
    head.fill_(float("nan"))
    with pytest.raises(GameAgentError, match="no token could be drawn"):
        engine.run([request])
    head.copy_(good)
    assert len(engine.run([request])[0].tokens) == 3
    assert_pages_add_up(engine)


def test_too_large_for_the_kv_memory_is_an_error_and_others_go_on(tiny_checkpoint: Path) -> None:
    runner = load_runner(tiny_checkpoint, kv_memory_bytes=2**18)  # 512 tokens
    engine = Engine(runner)
    rng = random.Random(12)
    with pytest.raises(TooLarge, match="KV memory"):
        engine.run([Request(make_blocks(rng, [2000]), ids(rng, 5), max_tokens=1)])
    # Many that fit only one after another, all different: eviction and waiting, no deadlock.
    requests = [Request(make_blocks(rng, [150] * 2), ids(rng, 5), max_tokens=20) for _ in range(6)]
    assert {c.finish_reason for c in engine.run(requests)} == {"length"}
    assert engine.store.num_evicted > 0
    assert_pages_add_up(engine)
    engine.close()


def test_what_can_never_fit_is_told_while_others_run(tiny_checkpoint: Path) -> None:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**18))  # 512 tokens
    rng = random.Random(20)
    recorder = Recorder()
    drawn = Sampling(temperature=1.0, seed=1)  # token by token
    handle = engine.submit(Request((), ids(rng, 5), max_tokens=200, sampling=drawn), recorder)
    recorder.first.wait()
    with pytest.raises(TooLarge, match="the KV memory holds 512"):
        engine.submit(Request(make_blocks(rng, [508]), ids(rng, 5), max_tokens=1), Waiter())
    same = make_blocks(rng, [200]) * 3
    assert engine.run([Request(same, ids(rng, 5), max_tokens=1)])[0].usage.encoded_tokens == 200
    # Its blocks fit, the pages of its reply beside them do not.
    with pytest.raises(TooLarge, match="pages wanted, there are 32"):
        engine.run([Request(make_blocks(rng, [480]), ids(rng, 5), max_tokens=200)])
    handle.cancel()
    assert recorder.wait().finish_reason == "cancelled"
    assert_pages_add_up(engine)
    engine.close()


def test_a_failed_step_publishes_nothing_and_the_engine_goes_on(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
    rng = random.Random(13)
    request = Request(make_blocks(rng, [20]), ids(rng, 5), max_tokens=1)
    with monkeypatch.context() as patch:

        def broken(*_: object) -> torch.Tensor:
            raise RuntimeError("out of luck")

        patch.setattr(engine.runner.decoder, "forward", broken)
        with pytest.raises(GameAgentError, match="out of luck"):
            engine.run([request])
    assert len(engine.store) == 0
    assert engine.run([request])[0].usage.blocks_encoded == 1
    assert_pages_add_up(engine)
    engine.close()


def test_too_many_waiting_is_overloaded(tiny_checkpoint: Path) -> None:
    settings = EngineSettings(max_waiting=3)
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), settings)
    rng = random.Random(14)
    request = Request(make_blocks(rng, [20]), ids(rng, 5), max_tokens=2)
    with pytest.raises(Overloaded) as caught:
        engine.run([request] * 4)
    assert caught.value.retry_after_ms > 0
    assert len(engine.run([request] * 3)) == 3
    engine.close()


def test_warm_up_encodes_without_answering(engine: Engine) -> None:
    rng = random.Random(15)
    blocks = make_blocks(rng, [30, 40])
    warm = engine.run([Request(blocks, np.empty(0, np.int32), max_tokens=0)] * 2)
    assert [c.text for c in warm] == ["", ""]
    usage = engine.run([Request(blocks, ids(rng, 5), max_tokens=1)])[0].usage
    assert usage.encoded_tokens == 0


def test_idle_time_makes_blocks_ready_and_leaves_out_what_is_superseded(
    tiny_checkpoint: Path,
) -> None:
    settings = EngineSettings(idle_tokens=64)
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24), settings)
    rng = random.Random(18)
    wanted = list(make_blocks(rng, [50] * 6))
    old = wanted[5]
    calls = 0
    drained = threading.Event()

    def source() -> list[Block]:
        nonlocal calls
        calls += 1
        if calls == 3:
            wanted[5] = make_blocks(rng, [20])[0]  # the world has changed meanwhile
        if calls == 7:
            drained.set()
        return wanted

    engine.set_idle_source(source)
    engine.poke()
    # One block fits a step: six steps, and one that finds nothing left.
    while not drained.wait(0.05):
        engine.poke()
    ready = engine.run([Request(tuple(wanted), ids(rng, 3), max_tokens=1)])[0].usage
    assert ready.encoded_tokens == 0
    assert engine.run([Request((old,), ids(rng, 3), max_tokens=1)])[0].usage.encoded_tokens == 50
    engine.close()


def stepped(engine: Engine, requests: list[Request]) -> list[Waiter]:
    """Submit requests to an engine whose steps the test takes itself."""
    engine._start = lambda: None  # type: ignore[method-assign]
    waiters = [Waiter() for _ in requests]
    engine.submit_all(list(zip(requests, waiters, strict=True)))
    return waiters


def test_what_is_for_idle_time_waits_for_all_else(engine: Engine) -> None:
    rng = random.Random(17)
    engine.runner.stop_token_ids = frozenset()
    idle = Request(make_blocks(rng, [100]), ids(rng, 5), max_tokens=6, is_idle=True)
    (summary,) = stepped(engine, [idle])
    computed = engine.metrics.snapshot
    engine.step()
    # No more than a question may wait for.
    assert computed()["step_tokens"] == engine.settings.idle_tokens < 100
    for _ in range(3):
        engine.step()
    before = computed()["step_tokens"]
    question = Request(make_blocks(rng, [30]), ids(rng, 5), max_tokens=4)
    (answer,) = stepped(engine, [question])
    for _ in range(4):
        engine.step()
    assert answer.wait().finish_reason == "length"
    # The question's own tokens and nothing else: 35, and one for each of three more.
    assert computed()["step_tokens"] == before + 38  # type: ignore[operator]
    while engine._loop.running:
        engine.step()
    assert len(summary.wait().tokens) == 6
    (alone,) = stepped(engine, [replace(idle, is_idle=False)])
    for _ in range(7):
        engine.step()
    assert alone.wait().tokens == summary.wait().tokens


def test_what_is_for_idle_time_gives_its_room_back(tiny_checkpoint: Path) -> None:
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**18))  # 512 tokens
    engine.runner.stop_token_ids = frozenset()
    rng = random.Random(18)
    idle = Request(make_blocks(rng, [150]), ids(rng, 5), max_tokens=200, is_idle=True)
    (summary,) = stepped(engine, [idle])
    for _ in range(6):
        engine.step()
    question = Request(make_blocks(rng, [300]), ids(rng, 5), max_tokens=2)
    (answer,) = stepped(engine, [question])
    for _ in range(3):
        engine.step()
    assert answer.wait().finish_reason == "length"
    assert summary.wait().finish_reason == "cancelled"
    assert_pages_add_up(engine)
    engine.close()


def test_a_question_that_comes_first_takes_changes_along_in_one_pass(engine: Engine) -> None:
    rng = random.Random(21)
    wanted = make_blocks(rng, [50] * 6)
    asked = threading.Event()

    def source() -> tuple[Block, ...]:
        asked.set()
        return wanted

    engine.set_idle_source(source)
    waiter = Waiter()
    with engine._intake.wake:  # the engine sees both at once
        engine.poke()
        engine.submit(Request(wanted, ids(rng, 5), max_tokens=1), waiter)
    assert waiter.wait().usage.encoded_tokens == 300
    assert asked.wait(60)
    engine.close()
    assert engine.metrics.snapshot()["steps"] == 1


def test_settings_of_a_request_are_checked() -> None:
    event = np.array([1], np.int32)
    with pytest.raises(InvalidInput, match="mode"):
        Request((), event, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="temperature"):
        Sampling(temperature=float("nan"))
    with pytest.raises(InvalidInput, match="top_p"):
        Sampling(top_p=0.0)
    with pytest.raises(InvalidInput, match="blocks or an event"):
        Request((), np.empty(0, np.int32))
    with pytest.raises(InvalidInput, match="max_running"):
        EngineSettings(step_tokens=2, max_running=3)


def test_replies_go_on_while_a_long_prompt_is_encoded(tmp_path: Path) -> None:
    """Chunks of a long encode never keep a reply from its next token."""
    engine = Engine(
        load_runner(make_checkpoint(tmp_path), kv_memory_bytes=2**24),
        EngineSettings(step_tokens=32, max_running=8),
    )
    rng = random.Random(16)
    talker, prompt = Recorder(), Recorder()
    engine.submit_all(
        [
            (Request((), ids(rng, 5), max_tokens=60), talker),
            (Request(make_blocks(rng, [1500]), ids(rng, 5), max_tokens=1), prompt),
        ]
    )
    talker.wait()
    # 60 steps have passed; the long prompt took what they left, 31 tokens each.
    assert engine.metrics.snapshot()["steps"] >= 48  # type: ignore[operator]
    prompt.wait()
    engine.close()

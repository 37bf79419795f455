"""An engine that keeps encoded blocks on disk: a restart, a kill, and what may happen meanwhile."""

from __future__ import annotations

import logging
import multiprocessing
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import VOCAB
from disk_writer import NUM_BLOCKS, NUM_PAGES, big_block, write_for_ever

from game_agent.blocks.block import Block, block_key
from game_agent.blocks.disk import DiskTier, KeysValues
from game_agent.config import GIB, CacheSettings, EngineSettings
from game_agent.engine import Engine, Request
from game_agent.engine.waiter import Waiter
from game_agent.errors import InvalidInput
from game_agent.model.runner import load_runner
from game_agent.runtime import Runtime

SLOWLY_S = 60.0


def start(checkpoint: Path, folder: Path, kv_memory_bytes: int = 2**22) -> Engine:
    runner = load_runner(checkpoint, kv_memory_bytes=kv_memory_bytes)
    return Engine(runner, EngineSettings(kv_cache=CacheSettings(folder)))


def ids(rng: random.Random, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([rng.randrange(5, VOCAB) for _ in range(count)], np.int32)


def prompt(seed: int = 0) -> tuple[Block, ...]:
    rng = random.Random(seed)
    return tuple(Block(ids(rng, count)) for count in (40, 16, 1, 100))


EVENT = np.arange(10, 20, dtype=np.int32)


@pytest.mark.parametrize("mode", ["block", "full"])
def test_a_restart_finds_its_blocks(tiny_checkpoint: Path, tmp_path: Path, mode: Any) -> None:
    request = Request(prompt(), EVENT, mode=mode, max_tokens=0, score=True)
    first = start(tiny_checkpoint, tmp_path)
    before = first.run([request])[0]
    first.close()
    first.close()  # does no harm
    second = start(tiny_checkpoint, tmp_path)
    after = second.run([request])[0]
    assert (before.usage.encoded_tokens, after.usage.encoded_tokens) == (157, 0)
    assert after.logits is not None
    assert before.logits is not None
    # Written in another pass with other rows: the same up to rounding.
    torch.testing.assert_close(after.logits, before.logits, atol=1e-5, rtol=1e-5)
    # A change costs its block; the rest comes from below.
    changed = (*request.blocks[:3], Block(EVENT))
    usage = second.run([Request(changed, EVENT, mode=mode, max_tokens=1)])[0].usage
    assert usage.encoded_tokens == 10
    second.close()


def test_blocks_on_another_models_disk_are_not_taken(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = Request(prompt(), EVENT, max_tokens=1)
    for kv_dtype in (None, "bfloat16", None):
        runner = load_runner(tiny_checkpoint, kv_memory_bytes=2**22, kv_dtype=kv_dtype)
        engine = Engine(runner, EngineSettings(kv_cache=CacheSettings(tmp_path)))
        encoded = engine.run([request])[0].usage.encoded_tokens
        assert encoded == (157 if len(list(tmp_path.glob("*"))) < 2 or kv_dtype else 0)
        engine.close()


def test_more_than_memory_holds_comes_back_from_disk(tiny_checkpoint: Path, tmp_path: Path) -> None:
    engine = start(tiny_checkpoint, tmp_path, kv_memory_bytes=2**18)  # 512 tokens
    prompts = [prompt(seed) for seed in range(8)]
    for blocks in prompts:
        engine.run([Request(blocks, EVENT, max_tokens=1)])
        engine.tiers.flush()  # type: ignore[union-attr]
    assert engine.store.num_evicted > 0
    engine.close()
    again = start(tiny_checkpoint, tmp_path, kv_memory_bytes=2**18)
    usages = [again.run([Request(blocks, EVENT, max_tokens=1)])[0].usage for blocks in prompts]
    assert [usage.encoded_tokens for usage in usages] == [0] * 8
    again.close()


def test_prompts_that_fit_one_after_another_are_fetched_together(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first = start(tiny_checkpoint, tmp_path)
    prompts = [prompt(seed) for seed in range(8)]
    first.run([Request(blocks, EVENT, max_tokens=1) for blocks in prompts])
    first.close()
    small = start(tiny_checkpoint, tmp_path, kv_memory_bytes=2**18)  # room for two or three
    for _ in range(3):
        done = small.run([Request(blocks, EVENT, max_tokens=1) for blocks in prompts])
        assert {completion.finish_reason for completion in done} == {"length"}
    small.close()
    pool = small.runner.pool
    assert small.store.num_available_pages == pool.num_pages


def hold_reads(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """(set when a read has begun, to be set to let it go on)."""
    begun, go_on = threading.Event(), threading.Event()
    real = DiskTier.get

    def slow(self: DiskTier, key: bytes, num_tokens: int, like: KeysValues) -> KeysValues | None:
        begun.set()
        assert go_on.wait(SLOWLY_S)
        return real(self, key, num_tokens, like)

    monkeypatch.setattr(DiskTier, "get", slow)
    return begun, go_on


def restarted(checkpoint: Path, folder: Path) -> Engine:
    first = start(checkpoint, folder)
    first.run([Request(prompt(), EVENT, max_tokens=1)])
    first.close()
    return start(checkpoint, folder)


def test_others_do_not_wait_while_blocks_are_read(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = restarted(tiny_checkpoint, tmp_path)
    begun, go_on = hold_reads(monkeypatch)
    waiter = Waiter()
    engine.submit(Request(prompt(), EVENT, max_tokens=1), waiter)
    assert begun.wait(SLOWLY_S)
    assert engine.run([Request(prompt(1), EVENT, max_tokens=3)])[0].usage.generated_tokens == 3
    # Whoever asks for the same meanwhile waits for the same.
    twin = Waiter()
    engine.submit(Request(prompt(), EVENT, max_tokens=1), twin)
    go_on.set()
    assert waiter.wait().usage.encoded_tokens == twin.wait().usage.encoded_tokens == 0
    engine.close()


@pytest.mark.parametrize("ending", ["cancel", "close"])
def test_a_request_may_end_while_its_blocks_are_read(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    engine = restarted(tiny_checkpoint, tmp_path)
    begun, go_on = hold_reads(monkeypatch)
    waiter = Waiter()
    handle = engine.submit(Request(prompt(), EVENT, max_tokens=1), waiter)
    assert begun.wait(SLOWLY_S)
    if ending == "cancel":
        handle.cancel()
        assert waiter.wait().finish_reason == "cancelled"
        go_on.set()
        engine.close()
    else:
        closing = threading.Thread(target=engine.close)
        closing.start()
        assert waiter.wait().finish_reason == "cancelled"
        go_on.set()
        closing.join()
    pool = engine.runner.pool
    assert pool.num_free + engine.store.num_block_pages == pool.num_pages


def test_warming_an_agent_fetches_its_blocks(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def runtime() -> Runtime:
        made = Runtime.load(tiny_checkpoint, kv_cache=tmp_path)
        made.world("w", {"places": {f"place {i}": "Here is a bench. " * 10 for i in range(5)}})
        return made

    with runtime() as first:
        first.agent("ann", world="w", profile="Ann sells bread.").warm().wait()
    with runtime() as second:
        ann = second.agent("ann", world="w", profile="Ann sells bread.")
        assert ann.warm().wait().usage.blocks_encoded == 0
        stats = second.stats()
        assert stats["blocks_fetched"] == stats["blocks"]
        assert stats["kv_disk_bytes"]


def test_idle_time_fetches_what_is_kept_and_encodes_only_what_is_not(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = restarted(tiny_checkpoint, tmp_path)
    assert engine.tiers is not None
    begun, go_on = hold_reads(monkeypatch)
    new = Block(EVENT[:7])
    wanted = (*prompt(), new)
    calls = 0

    def source() -> tuple[Block, ...]:
        nonlocal calls
        calls += 1
        return wanted

    engine.set_idle_source(source)
    engine.poke()
    assert begun.wait(SLOWLY_S)
    # Meanwhile it does not ask for the same again, and answers others.
    for _ in range(3):
        engine.poke()
        engine.run([Request(prompt(1), EVENT, max_tokens=1)])
    assert calls == 1
    before = engine.metrics.snapshot()["step_tokens"]
    go_on.set()
    keys = [block_key(engine.runner.digest, block) for block in wanted]
    end_s = time.monotonic() + SLOWLY_S
    while not all(key in engine.store for key in keys) and time.monotonic() < end_s:
        engine.poke()
        time.sleep(0.01)
    assert engine.tiers.num_fetched == len(prompt())
    assert engine.metrics.snapshot()["step_tokens"] == before + len(new)  # type: ignore[operator]
    usage = engine.run([Request(wanted, EVENT, max_tokens=1)])[0].usage
    assert usage.encoded_tokens == 0
    engine.close()


def test_a_damaged_file_costs_its_block_only(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    restarted(tiny_checkpoint, tmp_path).close()
    sizes = {path: path.stat().st_size for path in tmp_path.glob("*/*")}
    largest = max(sizes, key=lambda path: sizes[path])
    largest.write_bytes(largest.read_bytes()[:-100])
    engine = start(tiny_checkpoint, tmp_path)
    usage = engine.run([Request(prompt(), EVENT, max_tokens=1)])[0].usage
    assert usage.encoded_tokens == 100
    assert "is left out" in caplog.text
    engine.close()
    again = start(tiny_checkpoint, tmp_path)
    assert again.run([Request(prompt(), EVENT, max_tokens=1)])[0].usage.encoded_tokens == 0
    again.close()


def test_a_folder_that_cannot_be_used_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be used"):
        Runtime.load(tiny_checkpoint, kv_cache=tmp_path / "file")
    with pytest.raises(InvalidInput, match="must be positive"):
        CacheSettings(tmp_path, disk_bytes=0)


def kill_writers(folder: Path, num_kills: int) -> int:
    """Returns how many half-written files the kills left behind."""
    spawn = multiprocessing.get_context("spawn")
    chance = random.Random(num_kills)
    for _ in range(num_kills):
        begun = spawn.Event()
        process = spawn.Process(target=write_for_ever, args=(folder, begun.set))
        process.start()
        assert begun.wait(SLOWLY_S)
        process.join(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        disk = DiskTier(folder, b"model", GIB)
        found = 0
        for number in range(NUM_BLOCKS):
            expected = big_block(number)
            got = disk.get(b"b%d" % number, NUM_PAGES * 16, expected)
            found += got is not None
            if got is not None:
                assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        assert found == len(list(folder.glob("*/*.safetensors"))) > 0
    return len([path for path in folder.glob("*/*") if path.suffix != ".safetensors"])


def test_a_kill_leaves_whole_files_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kill_writers(tmp_path, 1)
    assert caplog.text == ""


@pytest.mark.slow
def test_twenty_kills_leave_whole_files_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        num_unfinished = kill_writers(tmp_path, 20)
    assert caplog.text == ""
    assert num_unfinished > 0  # some kills came in the middle of a write

"""Blocks below the store: what comes back is what was kept, and nothing that is damaged does."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from game_agent.blocks.disk import DiskTier, KeysValues
from game_agent.blocks.host import HostTier
from game_agent.blocks.pool import PagePool, pages_for
from game_agent.blocks.store import BlockStore, Entry
from game_agent.blocks.tiers import Tiers, Wanted

GIB = 2**30


def some(num_pages: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> KeysValues:
    made = torch.Generator().manual_seed(seed)
    keys = torch.randn(2, num_pages, 1, 4, 16, generator=made)
    return keys.to(dtype), torch.randn(2, num_pages, 1, 16, 4, generator=made).to(dtype)


def assert_same(a: KeysValues | None, b: KeysValues) -> None:
    assert a is not None
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*/*.safetensors")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_later_process_finds_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    kept = some(dtype=dtype)
    assert DiskTier(tmp_path, b"model", GIB).put(b"b1", 20, kept)
    later = DiskTier(tmp_path, b"model", GIB)
    assert b"b1" in later
    assert_same(later.get(b"b1", 20, kept), kept)
    assert later.num_bytes == only_file(tmp_path).stat().st_size
    assert later.get(b"b2", 20, kept) is None
    assert b"b1" not in DiskTier(tmp_path, b"other model", GIB)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def not_safetensors(path: Path) -> None:
    path.write_text("something else")


def without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def other_tensors(path: Path) -> None:
    save_file({"keys": torch.zeros(1)}, path, {"version": "1", "key": "6231", "num_tokens": "20"})


@pytest.mark.parametrize(
    "damage", [cut_short, empty, flip_a_bit, not_safetensors, without_metadata, other_tensors]
)
def test_a_damaged_file_is_left_out_with_a_warning_and_written_anew(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    kept = some()
    DiskTier(tmp_path, b"model", GIB).put(b"b1", 20, kept)
    damage(only_file(tmp_path))  # type: ignore[operator]
    later = DiskTier(tmp_path, b"model", GIB)
    assert later.get(b"b1", 20, kept) is None
    assert "is left out" in caplog.text
    assert b"b1" not in later
    assert later.num_bytes == 0
    later.put(b"b1", 20, kept)
    assert_same(later.get(b"b1", 20, kept), kept)


def test_a_file_of_another_shape_or_length_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for expected, num_tokens in ((some(3), 20), (some(dtype=torch.bfloat16), 20), (some(), 21)):
        disk = DiskTier(tmp_path, b"model", GIB)
        disk.put(b"b1", 20, some())
        assert disk.get(b"b1", num_tokens, expected) is None
    assert caplog.text.count("is left out") == 3


def test_a_foreign_files_name_does_no_harm(tmp_path: Path) -> None:
    DiskTier(tmp_path, b"model", GIB).put(b"b1", 20, some())
    home = only_file(tmp_path).parent
    (home / "notes.txt").write_text("mine")
    (tmp_path / "readme").write_text("mine")
    old, older, new = home / "x.1.tmp", home / ".tmpAbc", home / "y.1.tmp"
    for path in (old, older, new):
        path.write_bytes(b"half")
    for path in (old, older):
        os.utime(path, (0, 0))
    later = DiskTier(tmp_path, b"model", GIB)
    assert later.num_bytes == only_file(tmp_path).stat().st_size
    # Only what an earlier process left behind is cleared away.
    assert sorted(path.name for path in home.iterdir() if path.suffix != ".safetensors") == [
        "notes.txt",
        "y.1.tmp",
    ]


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    disk = DiskTier(tmp_path, b"model", GIB)
    disk.put(b"b0", 20, some())
    size = disk.num_bytes
    disk = DiskTier(tmp_path, b"model", 3 * size + size // 2)
    for name in (b"b1", b"b2"):
        disk.put(name, 20, some())
    assert disk.get(b"b0", 20, some()) is not None
    disk.put(b"b3", 20, some())
    assert [name in disk for name in (b"b0", b"b1", b"b2", b"b3")] == [True, False, True, True]
    assert disk.num_bytes == 3 * size == sum(p.stat().st_size for p in tmp_path.glob("*/*"))
    assert not DiskTier(tmp_path / "small", b"model", 10).put(b"b0", 20, some())
    # Another model's files count as well, and a smaller limit holds from the start.
    assert DiskTier(tmp_path, b"other model", 2 * size).num_bytes == 2 * size


def test_a_disk_that_refuses_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = DiskTier(tmp_path, b"model", GIB)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert not disk.put(b"b1", 20, some())
    assert not disk.put(b"b2", 20, some())
    assert caplog.text.count("cannot be written") == 1
    assert b"b1" not in disk
    assert list(tmp_path.glob("*/*")) == []


def test_host_memory_keeps_the_latest_used() -> None:
    size = sum(tensor.nbytes for tensor in some())
    host = HostTier(2 * size)
    for name in (b"b1", b"b2"):
        host.put(name, some())
    assert_same(host.get(b"b1"), some())
    host.put(b"b3", some())
    assert [name in host for name in (b"b1", b"b2", b"b3")] == [True, False, True]
    assert host.num_bytes == 2 * size
    host.put(b"b4", some(5))
    assert b"b4" not in host


class Shop:
    """A store with tiers, whose entries hold numbers that tell them apart."""

    def __init__(self, folder: Path | None = None, num_pages: int = 8) -> None:
        self.pool = PagePool(num_pages, num_layers=2, num_kv_heads=1, head_dim=4)
        self.store = BlockStore(self.pool)
        disk = None if folder is None else DiskTier(folder, b"model", GIB)
        self.tiers = Tiers(self.store, host=None if folder else HostTier(GIB), disk=disk)

    def use(self, name: bytes, num_tokens: int) -> None:
        """As a prompt with that block would."""
        held = self.store.hold([name], [num_tokens])
        (entry,) = held.entries
        if held.made:
            content = content_of(name, num_tokens)
            for i, page in enumerate(entry.pages.tolist()):
                self.pool.keys[:, page], self.pool.values[:, page] = (
                    content[0][:, i],
                    content[1][:, i],
                )
            entry.num_filled = num_tokens
        self.tiers.used(held.entries, set(held.made))
        self.store.release_all(held.entries)

    def fetch(self, *wanted: Wanted) -> None:
        done = threading.Event()

        def release(entries: list[Entry]) -> None:
            self.store.release_all(entries)
            done.set()

        self.tiers.fetch(wanted, release)
        assert done.wait(60)

    def content(self, name: bytes) -> KeysValues:
        entry = self.store.acquire(name)
        assert entry is not None
        pages = entry.pages.tolist()
        self.store.release(entry)
        return self.pool.keys[:, pages], self.pool.values[:, pages]


def content_of(name: bytes, num_tokens: int) -> KeysValues:
    """Random keys and values, 0 behind the last token."""
    keys, values = some(pages_for(num_tokens), seed=int.from_bytes(name, "big"))
    used = num_tokens % 16
    if used:
        keys[:, -1, :, :, used:], values[:, -1, :, used:] = 0, 0
    return keys, values


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_was_evicted_comes_back_as_it_was(tmp_path: Path, on_disk: bool) -> None:
    shop = Shop(tmp_path if on_disk else None)
    lengths = {b"b1": 1, b"b2": 16, b"b3": 17, b"f4": 40}
    for _ in range(2):
        for name, num_tokens in lengths.items():
            shop.use(name, num_tokens)
    shop.tiers.close()
    shop.store.free(shop.store.allocate(8))
    assert len(shop.store) == 0
    if on_disk:
        shop = Shop(tmp_path)  # a later process
    else:
        shop.tiers = Tiers(shop.store, host=shop.tiers._host)
    assert all(name in shop.tiers for name in lengths)
    shop.fetch(*(Wanted(name, n, 1e6) for name, n in lengths.items()), Wanted(b"b5", 3, 1e6))
    assert shop.tiers.num_fetched == 4
    for name, num_tokens in lengths.items():
        assert_same(shop.content(name), content_of(name, num_tokens))
    assert shop.store.num_available_pages == 8
    shop.fetch(Wanted(b"b1", 1, 1e6))
    assert shop.tiers.num_fetched == 4
    shop.tiers.close()


def test_what_is_used_once_is_kept_at_the_end_or_when_room_is_short(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.use(b"b1", 16)
    shop.use(b"b2", 16)
    shop.use(b"b2", 16)
    shop.use(b"c3", 16)  # private to somebody
    shop.use(b"c3", 16)
    assert [e.is_kept for e in map(shop.store.acquire, (b"b1", b"b2", b"c3")) if e] == [
        *(False, True, False)
    ]
    big = Shop(tmp_path / "big", num_pages=4)
    big.use(b"b1", 60)
    entry = big.store.acquire(b"b1")
    assert entry is not None
    assert entry.is_kept
    for each in (shop, big):
        each.tiers.close()
    disk = DiskTier(tmp_path, b"model", GIB)
    assert [name in disk for name in (b"b1", b"b2", b"c3")] == [True, True, False]


def test_a_fetch_takes_only_what_there_is_room_for(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for name in (b"b1", b"b2"):
        shop.use(name, 48)
    shop.tiers.close()
    small = Shop(tmp_path, num_pages=5)
    frame = small.store.allocate(1)
    small.fetch(Wanted(b"b1", 48, 1e6), Wanted(b"b2", 48, 1e6))
    assert (b"b1" in small.store, b"b2" in small.store) == (True, False)
    taken = small.store.allocate(4)
    small.fetch(Wanted(b"b1", 48, 1e6), Wanted(b"b2", 48, 1e6))
    assert len(small.store) == 0
    small.store.free(taken)
    small.store.free(frame)
    small.tiers.close()
    assert small.pool.num_free == 5


def test_a_broken_tier_is_logged_and_done_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)

    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(DiskTier, "get", broken)
    monkeypatch.setattr(DiskTier, "put", broken)
    with caplog.at_level(logging.ERROR):
        shop.use(b"b1", 16)
        shop.fetch(Wanted(b"b2", 16, 1e6))
        shop.tiers.close()
    assert "could not be kept" in caplog.text
    assert "could not be brought back" in caplog.text

"""Writes blocks to disk until it is killed; in a module of its own, so that it starts quickly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from game_agent.blocks.disk import DiskTier, KeysValues
from game_agent.config import GIB

NUM_BLOCKS = 4
NUM_PAGES = 256


def big_block(number: int) -> KeysValues:
    made = torch.Generator().manual_seed(number)
    keys = torch.randn(4, NUM_PAGES, 2, 16, 16, generator=made)
    return keys, torch.randn(4, NUM_PAGES, 2, 16, 16, generator=made)


def write_for_ever(folder: Path, is_writing: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    disk = DiskTier(folder, b"model", GIB)
    blocks = [big_block(number) for number in range(NUM_BLOCKS)]
    while True:
        for number, block in enumerate(blocks):
            disk.put(b"b%d" % number, NUM_PAGES * 16, block)
            is_writing()

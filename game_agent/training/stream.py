"""Batches without end, made between the steps or by processes of their own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from game_agent.training.batches import Batch
from game_agent.training.curriculum import Mix, make_batch
from game_agent.training.tokens import plain_copy

Named = tuple[Batch, str]
"""A batch and its name for the log: random, full or block."""


class SceneStream(IterableDataset[Named]):
    """Batches of scenes; ``level`` and ``random_share`` of ``mix`` may be changed meanwhile.

    Those that processes have ready, two each, are made already when a change comes.
    """

    def __init__(self, tokenizer: str, seed: int, mix: Mix) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._seed = seed
        self._mix = mix
        # Seen by all processes.
        self._level = torch.tensor(mix.level).share_memory_()
        self._random_share = torch.tensor(mix.random_share, dtype=torch.float64).share_memory_()

    def set(self, level: int, random_share: float) -> None:
        """For batches that are made from now on."""
        self._level.fill_(level)
        self._random_share.fill_(random_share)

    def __iter__(self) -> Iterator[Named]:
        worker = get_worker_info()
        rng = random.Random(f"{self._seed} {worker.id if worker else 0}")
        tokenizer = plain_copy(Tokenizer.from_str(self._tokenizer))
        while True:
            level, random_share = int(self._level), float(self._random_share)
            mix = replace(self._mix, level=level, random_share=random_share)
            yield make_batch(rng, tokenizer, mix)

    def batches(self, num_workers: int, *, pinned: bool) -> Iterable[Named]:
        """All of them, by ``num_workers`` processes, but not more than there are cores; by this one
        for 0. ``pinned``: in memory that a GPU reads by itself."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=min(num_workers, _num_cores()),
            pin_memory=pinned,
            worker_init_fn=_begin_worker if num_workers else None,
        )


def _num_cores() -> int:
    """Of this process, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _begin_worker(_number: int) -> None:
    # Each would use all cores for the few texts of a scene.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C and `timeout` stop the training, which stops these: a batch is still waited for.
    if hasattr(os, "setpgrp"):
        os.setpgrp()

"""The store under a crowd, as ``bench/store.py`` makes it: pages, logits, sharing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.store import Crowd, shared_world


def test_a_small_crowd_keeps_to_its_memory(tiny_checkpoint: Path) -> None:
    crowd = Crowd(tiny_checkpoint, num_agents=10, world_blocks=60, share=0.4)
    figures = crowd.run(150)
    crowd.engine.close()
    assert figures.evicted > 0
    assert figures.num_checked == 1
    assert 0.2 < figures.hit_rate < 1.0
    assert figures.most_pages <= figures.num_pages


@pytest.mark.slow
def test_500_agents_in_a_fifth_of_the_memory(tiny_checkpoint: Path) -> None:
    crowd = Crowd(tiny_checkpoint, num_agents=500, world_blocks=2000, share=0.2)
    figures = crowd.run(20_000)
    crowd.engine.close()
    assert figures.evicted > 1000
    assert figures.num_checked == 50
    assert figures.hit_rate > 0.3
    assert figures.most_pages <= figures.num_pages


def test_a_hundred_agents_share_one_world(tiny_checkpoint: Path) -> None:
    taken, ideal = shared_world(tiny_checkpoint)
    assert ideal <= taken < 1.1 * ideal

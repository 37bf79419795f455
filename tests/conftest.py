"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from hypothesis import settings
from transformers.utils import logging as hf_logging

from game_agent.engine import Engine
from game_agent.model.runner import load_runner

torch.set_num_threads(1)
# Correctness is not timed: a busy machine must not fail a property.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with random weights and the bundled model's special tokens."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    """An engine on the tiny checkpoint with room for 16K tokens."""
    engine = Engine(load_runner(tiny_checkpoint, kv_memory_bytes=2**24))
    yield engine
    engine.close()

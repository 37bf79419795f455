"""Results and checkpoints that cannot be written: a sentence, not a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from game_agent.errors import TrainingError

# What torch and safetensors say: neither has a class of error for it.
_WORDS = ("PytorchStreamWriter", "inline_container", "I/O error", "IoError", "No space left")


@contextmanager
def writes(path: Path) -> Iterator[None]:
    """For what writes ``path``. Raises :class:`TrainingError` where there is no room for it."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not any(word in str(error) for word in _WORDS):
            raise
        # Torch's messages go on with a stack.
        reason = str(error).split("\n")[0]
        raise TrainingError(
            f"{path} could not be written ({reason}). Make room, or correct its rights, and give "
            "the same command again: it goes on after the last checkpoint"
        ) from error

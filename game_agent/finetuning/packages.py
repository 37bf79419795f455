"""Packages of the extra ``finetune``, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from game_agent.errors import InvalidInput


def package(name: str) -> Any:
    """The package of that name. Raises :class:`InvalidInput`, which says how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InvalidInput(
            f"fine-tuning needs {name}, which cannot be imported ({error}): "
            "pip install 'game-agent[finetune]'"
        ) from None

"""Where a checkpoint lies: a folder as it is, a Hub id after a download."""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from game_agent.errors import ModelError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.jinja", "*.safetensors"]


def resolve(name: str | os.PathLike[str]) -> Path:
    """The local folder of a checkpoint: ``name`` itself, or the Hub repository of that id.

    Raises :class:`ModelError` when it is neither, or cannot be downloaded.
    """
    path = Path(name)
    if path.is_dir() or not _HUB_ID.fullmatch(str(name)):
        return path
    try:
        return Path(snapshot_download(str(name), allow_patterns=_FILES))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name} is neither a folder here nor could it be downloaded from the Hub: {error}"
        ) from None

"""Why a file cannot be read: whose it is, what its mode allows, and what to do about it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path


def why_unreadable(path: Path) -> str | None:
    """A sentence on what keeps this process from reading ``path``; None where nothing does.

    It may be a folder above it. On Windows, where rights are no modes, always None.
    """
    if sys.platform == "win32":
        return None
    path = path.absolute()
    for each in (*reversed(path.parents), path):
        if not each.exists():
            return None
        if not _may(each, through=each != path):
            return _sentence(each, path, each.stat(), os.geteuid())
    return None


def _may(path: Path, *, through: bool) -> bool:
    """Whether this process may read a file, list a folder, or go ``through`` one."""
    wanted = os.X_OK if through else os.R_OK | (os.X_OK if path.is_dir() else 0)
    return os.access(path, wanted, effective_ids=os.access in os.supports_effective_ids)


def _sentence(blocked: Path, path: Path, status: os.stat_result, user: int) -> str:
    mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
    if owner == user:
        way_out = f"Correct it: chmod u+r{'x' * blocked.is_dir()} {blocked}"
    elif blocked in (path, path.parent):
        folder = blocked if blocked.is_dir() else path.parent
        way_out = (
            f"Run it as user {owner}, or make the folder its own: chown -R {user} {folder} "
            "(in a container: docs/operations.md)"
        )
    else:
        way_out = f"Run it as user {owner}, or put {path.name} where user {user} may go"
    return (
        f"{path} cannot be read: {blocked} has mode {mode:04o} and belongs to user {owner}, "
        f"and this process runs as user {user}. {way_out}"
    )

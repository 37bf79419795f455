"""Checkpoints of a run: whole or not there, and gone on from only by a run of the same kind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from game_agent.errors import InvalidInput
from game_agent.finetuning.settings import Settings
from game_agent.writing import writes

_PART = ".part"


class Checkpoints:
    """The checkpoints below ``folder``; the last one only is kept.

    kind: what a run must have in common with the one that it goes on from, as plain JSON
    """

    def __init__(self, folder: Path, accelerator: Any, kind: Mapping[str, object]) -> None:
        self._folder = folder
        self._accelerator = accelerator
        self._kind = dict(kind)

    def prepare(self, *, resume: bool) -> None:
        """Remove what was left half-written, and all of it unless ``resume``."""
        if self._accelerator.is_main_process:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob(f"checkpoint-*{_PART}"):
                shutil.rmtree(path)
            for path in () if resume else self._whole():
                _remove(path)
        self._accelerator.wait_for_everyone()

    def save(self, step: int) -> None:
        """Keep the state after ``step`` steps; all processes call this.

        Raises :class:`TrainingError` where it cannot be written; the one before is kept.
        """
        path = self._folder / f"checkpoint-{step:08d}"
        part = path.with_name(path.name + _PART)
        with writes(part):
            self._accelerator.save_state(str(part))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            progress = {"step": step, "kind": self._kind}
            (part / "progress.json").write_text(json.dumps(progress, indent=2), "utf-8")
            older = self._whole()
            part.rename(path)
            for old in older:
                _remove(old)
        self._accelerator.wait_for_everyone()

    def load(self) -> int:
        """Go on from the last checkpoint; how many steps it had done, 0 without one.

        Raises :class:`InvalidInput` where the run that wrote it was another.
        """
        whole = self._whole()
        if not whole:
            return 0
        path = whole[-1]
        progress = json.loads((path / "progress.json").read_text("utf-8"))
        before, now = progress["kind"], json.loads(json.dumps(self._kind))
        other = [key for key in now if before.get(key) != now[key]]
        if other:
            told = ", ".join(f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in other)
            raise InvalidInput(
                f"{self._folder} holds the beginning of another run ({told}); "
                "--restart begins anew, or name another folder to write"
            )
        self._accelerator.load_state(str(path))
        return int(progress["step"])

    @property
    def has_one(self) -> bool:
        """Whether there is one to go on from."""
        return bool(self._whole())

    def _whole(self) -> list[Path]:
        paths = self._folder.glob("checkpoint-*")
        return sorted(path for path in paths if not path.name.endswith(_PART))


def _remove(path: Path) -> None:
    """Under the name of what is not whole first, for a kill in between."""
    part = path.with_name(path.name + _PART)
    path.rename(part)
    shutil.rmtree(part)


def run_kind(settings: Settings, num_processes: int) -> dict[str, object]:
    """What makes a run the same as another: settings, data, number of processes."""
    digest = hashlib.sha256()
    for path in settings.data:
        digest.update(path.read_bytes())
    return {**settings.lasting(), "data": digest.hexdigest()[:16], "processes": num_processes}

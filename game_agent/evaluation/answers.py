"""Answers on file: one JSON line each, so that an interrupted evaluation goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from game_agent.errors import InvalidInput, Unavailable
from game_agent.evaluation.metrics import Scores

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Answer:
    """A reply and what it is worth.

    model:  the model's name in the table; ``digest`` tells its weights
    way:    a name of ``WAYS``
    finish: ``stop``, or ``length`` where the reply was cut off
    """

    model: str
    digest: str
    way: str
    id: str
    type: str
    reply: str
    finish: str
    context_tokens: int
    scores: Scores

    @property
    def key(self) -> Key:
        return self.digest, self.way, self.id


class AnswerFile:
    """Answers of one evaluation; without a path they are kept in memory only.

    The first line of the file tells the settings, since answers made otherwise must not be mixed.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        """Raises :class:`InvalidInput` for a file of another kind or of other settings."""
        self.answers: dict[Key, Answer] = {}
        self._file: BinaryIO | None = None
        if path is None:
            return
        head = json.loads(json.dumps({"settings": settings}))
        try:
            data = path.read_bytes() if path.exists() else b""
            # A line that was cut off at the end is taken away.
            whole = data[: data.rfind(b"\n") + 1]
            self._read(path, whole.splitlines(), head["settings"])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            self._file.truncate(len(whole))
            if not whole:
                self._write(head)
                self._file.flush()
        except OSError as error:
            raise InvalidInput(f"{path} cannot be written: {error}") from None

    def add(self, answers: Iterable[Answer]) -> None:
        """Keep answers; they are on file when this returns.

        Raises :class:`Unavailable` where there is no room; what is on file counts all the same.
        """
        try:
            for answer in answers:
                self.answers[answer.key] = answer
                self._write(asdict(answer))
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise Unavailable(
                f"answers cannot be written ({error.strerror}); make room, and give the same "
                "command again: what is on file is not asked again"
            ) from None

    def close(self) -> None:
        if self._file is not None:
            # What could not be written was told already.
            with suppress(OSError):
                self._file.close()

    def _read(self, path: Path, lines: list[bytes], settings: dict[str, Any]) -> None:
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                if number == 1:
                    _check(path, fields["settings"], settings)
                    continue
                answer = Answer(**{**fields, "scores": Scores(**fields["scores"])})
            except (ValueError, TypeError, LookupError) as error:
                raise InvalidInput(
                    f"{path}, line {number} was not written by game-agent evaluate ({error!r}); "
                    "name another file"
                ) from None
            self.answers[answer.key] = answer

    def _write(self, value: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(value, ensure_ascii=False).encode("utf-8") + b"\n")


def _check(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    wrong = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if wrong:
        raise InvalidInput(
            f"{path} holds answers that were made with other settings ({', '.join(wrong)}); "
            "name another file, or remove it"
        )

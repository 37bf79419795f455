"""What a run tells: lines of JSON in a file, and a bar in the terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SAY_EVERY_S = 30.0  # where there is no terminal to draw a bar on


class RunLog:
    """The log of a run; silent where ``is_main`` is False (one process of several writes)."""

    def __init__(
        self,
        path: Path,
        console: Console,
        *,
        is_main: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._is_main = is_main
        self._clock = clock
        self._said = -SAY_EVERY_S
        self._num_steps = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (is_main and console.is_terminal),
        )
        self._task = self._progress.add_task("fine-tuning", total=None)

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, step: int, num_steps: int) -> None:
        """Forget what an earlier run logged after ``step`` steps; all of it for step 0."""
        self._num_steps = num_steps
        self._progress.update(self._task, completed=step, total=num_steps)
        if self._is_main:
            kept = [
                line for line in self._lines() if step and json.loads(line).get("step", 0) <= step
            ]
            part = self._path.with_name(self._path.name + ".part")
            part.write_text("".join(f"{line}\n" for line in kept), "utf-8")
            part.replace(self._path)

    def write(self, event: str, **values: object) -> None:
        """One line: ``{"event": event, …}``."""
        if self._is_main:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"event": event, **values}) + "\n")

    def show(self, step: int, text: str) -> None:
        """The bar after ``step`` steps; in a file, a line now and then."""
        self._progress.update(self._task, completed=step, description=text)
        if not self._progress.console.is_terminal and self._clock() - self._said >= SAY_EVERY_S:
            self._said = self._clock()
            self.say(f"step {step} of {self._num_steps}: {text}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._is_main:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _lines(self) -> Iterable[str]:
        """Lines that are whole: the last one may have been cut off."""
        if not self._path.exists():
            return []
        *whole, _ = self._path.read_text("utf-8").split("\n")
        return whole

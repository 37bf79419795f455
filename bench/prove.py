"""All that is too long for every commit, one step after another; writes docs/results/.

    python bench/prove.py [--only tests,soak] [--anew] [--list]

A step that fails, or takes too long, does not keep the others from being run: a summary at the end
names all that failed, and the program ends with status 1. What a step says is in runs/prove. The
same command goes on with the steps that have not been right since the last --anew, or since all
were. The ablation compares what is in runs/, the work of hours (bench/trainings.py --out runs); it
is left out where that is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "runs" / "prove"
TOO_LONG = "too long"
LEFT_OUT = "left out"
RIGHT = "right"


def bench(name: str, *options: str, out: str | None = None) -> tuple[str, ...]:
    """A program of this folder that writes docs/results/NAME.md, or ``out`` there."""
    return (f"bench/{name}.py", *options, "--out", f"docs/results/{out or name + '.md'}")


# A word with a * stands for the folders that it matches.
ABLATION = (
    *("--finetuned-from-twin", "--twin", "runs/causal"),
    *("--model", "runs/block-[0-9]*", "--control", "runs/control-[0-9]*"),
)
STEPS: dict[str, tuple[str, ...]] = {
    "tests": ("-m", "pytest", "-m", "slow"),
    "equivalence": bench("equivalence"),
    "kernels": bench("kernels"),
    "ttft": bench("ttft"),
    "npcs": bench("npcs"),
    "contextual": bench("contextual", "--ttft", out="contextual_ttft.md"),
    "placements": bench("placements"),
    "ablation": bench("ablation", *ABLATION),
    "plan": bench("plan"),
    "restart": bench("restart"),
    "store": bench("store"),
    "lore": bench("lore"),
    "flops": bench("flops"),
    "background": bench("background"),
    "abuse": bench("abuse"),
    "load": bench("load", "--layers", "4"),
    "answers": bench("answers"),
    "demo": bench("demo"),
    "soak": bench("soak", out="soak"),
}


@dataclass(frozen=True)
class Outcome:
    """How a step ended: ``result`` is RIGHT, LEFT_OUT, TOO_LONG or what its status was."""

    result: str
    seconds: float = 0.0
    commit: str = ""

    @property
    def is_failure(self) -> bool:
        return self.result not in (RIGHT, LEFT_OUT)


class Outcomes:
    """What became of each step, kept in a file, so that an interrupted run goes on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "steps.json"
        self.found: dict[str, Outcome] = {}
        if self._file.exists():
            told = json.loads(self._file.read_text("utf-8"))
            self.found = {name: Outcome(**fields) for name, fields in told.items()}

    def add(self, name: str, outcome: Outcome) -> None:
        self.found[name] = outcome
        self._write()

    def _write(self) -> None:
        part = self._file.with_suffix(".part")
        fields = {name: asdict(outcome) for name, outcome in self.found.items()}
        part.write_text(json.dumps(fields, indent=1), "utf-8")
        part.replace(self._file)

    def is_right(self, name: str) -> bool:
        return name in self.found and self.found[name].result == RIGHT

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.found.pop(name, None)
        self._write()


def expanded(words: Sequence[str], root: Path) -> list[str] | None:
    """The words with folders in place of patterns, by name; None where one matches nothing."""
    out = []
    for word in words:
        if "*" not in word:
            out.append(word)
            continue
        # What bench/trainings.py puts beside a model is named after it: NAME.log, NAME-training.
        found = [path for path in root.glob(word) if path.name.rpartition("-")[2].isdecimal()]
        if not found:
            return None
        out += [str(path.relative_to(root)) for path in sorted(found)]
    return out


def run_step(words: Sequence[str], log: Path, limit_s: float, root: Path) -> str:
    """Run one to its end, its words in ``log``; the result. After ``limit_s`` it is ended."""
    command = expanded(words, root)
    if command is None:
        return LEFT_OUT
    with log.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return TOO_LONG
        finally:
            _end(process)
    return RIGHT if status == 0 else f"status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """With whatever it has started: servers, trainings."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def run_steps(
    steps: Mapping[str, Sequence[str]], outcomes: Outcomes, limit_s: float, folder: Path, root: Path
) -> None:
    """All that are not right yet."""
    commit = _commit(root)
    for name, words in steps.items():
        if outcomes.is_right(name):
            print(f"{name}: was right", flush=True)
            continue
        log = folder / f"{name}.log"
        print(f"{name}: begins; its words: {log}", flush=True)
        begun = time.monotonic()
        result = run_step(words, log, limit_s, root)
        seconds = time.monotonic() - begun
        outcomes.add(name, Outcome(result, seconds, commit))
        print(f"{name}: {result}, {seconds:.0f} s", flush=True)


def _commit(root: Path) -> str:
    """The commit that is checked out; "" without git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()


def summary(steps: Mapping[str, Sequence[str]], outcomes: Outcomes) -> Table:
    """What became of each, and how to repeat what failed."""
    table = Table()
    for column in ("step", "result", "minutes", "commit", "command"):
        table.add_column(column, overflow="fold")
    for name, words in steps.items():
        outcome = outcomes.found.get(name, Outcome("not run"))
        command = "" if outcome.result == RIGHT else " ".join(["python", *words])
        minutes = f"{outcome.seconds / 60:.1f}" if outcome.seconds else ""
        table.add_row(name, outcome.result, minutes, outcome.commit, command)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="these steps, by commas")
    parser.add_argument("--anew", action="store_true", help="also those that were right already")
    parser.add_argument("--limit-minutes", type=float, default=120, help="the longest for a step")
    parser.add_argument("--list", action="store_true", help="what would be run, and what was")
    args = parser.parse_args(argv)
    names = args.only.split(",") if args.only else list(STEPS)
    if unknown := set(names) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    return prove({name: STEPS[name] for name in names}, args, FOLDER, ROOT)


def prove(
    steps: Mapping[str, Sequence[str]], args: argparse.Namespace, folder: Path, root: Path
) -> int:
    """Run the steps, or only list them; the program's status."""
    outcomes = Outcomes(folder)
    if args.list:
        Console().print(summary(steps, outcomes))
        return 0
    if args.anew:
        outcomes.forget(steps)
    try:
        run_steps(steps, outcomes, 60 * args.limit_minutes, folder, root)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with this step", flush=True)
        return 130
    finally:
        Console().print(summary(steps, outcomes))
    if any(outcomes.found[name].is_failure for name in steps):
        return 1
    if not args.only:
        outcomes.forget(steps)  # the next time all is proved anew
    return 0


if __name__ == "__main__":
    sys.exit(main())

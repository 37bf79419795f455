"""Plays the conformance script against a client: python tests/conformance --help.

A client takes part through a small program of its own, the *runner*. README.md says what it does.
"""

from __future__ import annotations

import argparse
import json
import queue
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgpack
from conformance.cable import Cable

HERE = Path(__file__).parent
SCRIPT = HERE / "script.jsonl"
PATIENCE_S = 60.0
Map = dict[str, Any]

KINDS: dict[str, Callable[[Any], bool]] = {
    "$any": lambda value: True,
    "$text": lambda value: isinstance(value, str),
    "$bytes": lambda value: isinstance(value, bytes),
    "$number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


class Mismatch(AssertionError):
    """A client, or the server, did not do what the script expects."""


class Runner:
    """A client's runner as a process: maps in, maps out."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._events: queue.SimpleQueue[Map | None] = queue.SimpleQueue()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        self._reader.start()

    def send(self, command: Map) -> None:
        data = msgpack.packb(command)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(struct.pack(">I", len(data)) + data)
            self._process.stdin.flush()
        except OSError as error:
            raise Mismatch(f"the runner has ended: {error}") from error

    def next_event(self) -> Map:
        try:
            event = self._events.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise Mismatch(f"the runner says nothing for {PATIENCE_S:g} s") from None
        if event is None:
            self._events.put(None)
            raise Mismatch("the runner has ended")
        return event

    def finish(self) -> list[Map]:
        """End it; return what it still said. It must end by itself, with status 0."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        left = []
        while (event := self._events.get()) is not None:
            left.append(event)
        if status:
            raise Mismatch(f"the runner ended with status {status}")
        return left

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self, pipe: IO[bytes]) -> None:
        while len(head := pipe.read(4)) == 4:
            self._events.put(msgpack.unpackb(pipe.read(struct.unpack(">I", head)[0])))
        self._events.put(None)


class Player:
    """One performance of a script. ``cut``: ends the runner's connection to the server."""

    def __init__(self, runner: Runner, cut: Callable[[], None]) -> None:
        self._runner = runner
        self._cut = cut
        self._sent: Map = {}
        self._ids: Map = {}
        self._ended: dict[str, Map] = {}

    def play(self, step: Map) -> None:
        """Raises ``Mismatch``."""
        if "request" in step:
            fields = self._fill(step.get("fields", {}))
            self._sent[step["request"]] = fields
            self._runner.send({"request": step["request"], "op": step["op"], "fields": fields})
            self._wait_for_id(step["request"])
        elif "tick" in step:
            asks = [{"name": name, "fields": each} for name, each in step["asks"].items()]
            command = {"tick": step["tick"], "fields": self._fill(step["fields"]), "asks": asks}
            self._sent |= {step["tick"]: step["fields"], **step["asks"]}
            self._runner.send(command)
            for name in (step["tick"], *step["asks"]):
                self._wait_for_id(name)
        elif "end" in step:
            self._check_end(step)
        elif "cut" in step:
            self._cut()

    def finish(self) -> None:
        """No request may have ended twice, or without a step for it."""
        for event in self._runner.finish():
            self._note(event)
        if self._ids.keys() != self._ended.keys():
            raise Mismatch(f"never ended: {sorted(self._ids.keys() - self._ended.keys())}")

    def _fill(self, value: Any) -> Any:
        """Put in what only a performance knows."""
        if isinstance(value, list):
            return [self._fill(each) for each in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"$id": name}:
                return self._ids[name]
            case {"$repeat": [text, times]}:
                return text * times
            case {"$reply": path}:
                name, _, field = path.partition(".")
                return self._ended[name]["reply"][field]
            case {"$same": path}:
                name, _, field = path.partition(".")
                return {"$is": self._sent[name][field]}
        return {key: self._fill(each) for key, each in value.items()}

    def _wait_for_id(self, name: str) -> None:
        while name not in self._ids:
            self._note(self._runner.next_event())

    def _check_end(self, step: Map) -> None:
        name = step["end"]
        while name not in self._ended:
            self._note(self._runner.next_event())
        end = self._ended[name]
        check(end["reply"], {"$has": self._fill(step["expect"])}, name)
        pieces = end.get("pieces", [])
        if self._sent[name].get("stream"):
            check("".join(pieces), end["reply"]["text"], f"{name}, its pieces joined")
        elif pieces:
            raise Mismatch(f"{name}: pieces that nobody asked for")

    def _note(self, event: Map) -> None:
        name = event["name"]
        if "id" in event:
            self._ids[name] = event["id"]
        elif name in self._ended:
            raise Mismatch(f"{name}: ended twice: {self._ended[name]}, {event}")
        else:
            self._ended[name] = event


def check(actual: Any, expected: Any, where: str) -> None:
    """Compare a value with what the script expects. Raises ``Mismatch``."""
    if isinstance(expected, str) and expected in KINDS:
        is_right = KINDS[expected](actual)
    elif isinstance(expected, dict) and "$one_of" in expected:
        is_right = any(_is_equal(actual, each) for each in expected["$one_of"])
    elif isinstance(expected, dict) and "$is" in expected:
        is_right = _is_equal(actual, expected["$is"])
    elif isinstance(expected, dict) and "$has" in expected:
        _check_fields(actual, expected["$has"], where)
        return
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (left, right) in enumerate(zip(actual, expected, strict=True)):
            check(left, right, f"{where}.{index}")
        return
    else:
        is_right = _is_equal(actual, expected)
    if not is_right:
        raise Mismatch(f"{where}: expected {expected!r:.300}, got {actual!r:.300}")


def _check_fields(actual: Any, expected: Map, where: str) -> None:
    if not isinstance(actual, dict):
        raise Mismatch(f"{where}: expected a map, got {actual!r:.300}")
    for name, value in expected.items():
        if name not in actual:
            raise Mismatch(f"{where}: has no {name!r}: {actual!r:.300}")
        check(actual[name], value, f"{where}.{name}")


def _is_equal(left: Any, right: Any) -> bool:
    """Equality by which true is not 1. That 1 is 1.0 is all right: JavaScript knows only that."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_is_equal(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_is_equal, left, right))
    return bool(left == right)


def read_script(path: Path = SCRIPT) -> Iterator[Map]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


@contextmanager
def runner_of(command: Sequence[str]) -> Iterator[Runner]:
    runner = Runner(command)
    try:
        yield runner
    finally:
        runner.kill()


def play(
    command: Sequence[str],
    server: str,
    keys: Sequence[str] = (),
    *,
    show: Callable[[str], None] | None = None,
) -> None:
    """Let a runner perform the script against a server. Raises ``Mismatch``.

    ``keys``: the server's, and the client's public and secret one, in Z85.
    """
    host, port = re.fullmatch(r"tcp://([^:]+):(\d+)", server).groups()  # type: ignore[union-attr]
    with Cable(host, int(port)) as cable, runner_of([*command, cable.endpoint, *keys]) as runner:
        player = Player(runner, cable.cut)
        for step in read_script():
            if show is not None and "note" in step:
                show(step["note"])
            player.play(step)
        player.finish()


def main() -> None:
    parser = argparse.ArgumentParser(
        "conformance", description="Play the conformance script against a client."
    )
    parser.add_argument("--server", default="tcp://127.0.0.1:5761")
    parser.add_argument(
        "--keys", nargs=3, default=(), metavar=("SERVER", "PUBLIC", "SECRET"), help="CURVE, in Z85"
    )
    parser.add_argument("runner", nargs="+", help="the command that starts the client's runner")
    options = parser.parse_args()
    try:
        play(options.runner, options.server, options.keys, show=print)
    except Mismatch as error:
        sys.exit(f"not conformant: {error}")
    print("conformant")

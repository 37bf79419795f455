"""Worlds, agents and what they remember, in a SQLite file that survives ``kill -9``.

What changes often is small: a patch is a row, a turn is a row. A world's whole state is written
only when the patches since the last time are as long as it is: a tick costs what it changes.

Power loss is not promised: in WAL mode with ``synchronous=NORMAL`` a commit is in the hands of the
operating system, which outlives the process but not the machine.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from game_agent.errors import Unavailable
from game_agent.protocol.codec import Map
from game_agent.protocol.replies import Id

FILE_NAME = "state.sqlite"
VERSION = 2
MIN_LOG_BYTES = 2**16
MAX_LOG_PATCHES = 1000
"""Bounds how long a start takes: each of them is applied again."""

_TABLES = """
CREATE TABLE worlds (name TEXT PRIMARY KEY, fields BLOB, state BLOB, seq INTEGER) WITHOUT ROWID;
CREATE TABLE patches (
    world TEXT, seq INTEGER, kind TEXT, content BLOB, PRIMARY KEY (world, seq)
) WITHOUT ROWID;
CREATE TABLE definitions (
    number INTEGER PRIMARY KEY, owner TEXT, op TEXT, fields BLOB, UNIQUE (owner, op)
);
CREATE TABLE memories (
    agent TEXT PRIMARY KEY, version INTEGER, next_index INTEGER
) WITHOUT ROWID;
CREATE TABLE turns (
    agent TEXT, number INTEGER, turn BLOB, PRIMARY KEY (agent, number)
) WITHOUT ROWID;
CREATE TABLE replies (
    number INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT, owner TEXT, id BLOB, frame BLOB
);
"""


@dataclass(frozen=True)
class Patch:
    """A change of a world: ``kind`` is ``patch`` or ``merge``, ``seq`` the version it made."""

    seq: int
    kind: str
    content: Any


@dataclass
class SavedWorld:
    """A world as it was when last written whole, and the patches since, in order."""

    name: str
    fields: Map
    state: Map
    seq: int
    patches: list[Patch] = field(default_factory=list)


@dataclass(frozen=True)
class Definition:
    """The request that made an agent, or gave something to an agent or a world.

    owner:  ``agent NAME`` or ``world NAME``
    fields: of the request, without ``v``, ``id`` and ``op``
    """

    owner: str
    op: str
    fields: Map


@dataclass
class SavedMemory:
    """What an agent remembers, in the form of ``Memory.to_value``; turns are written singly."""

    version: int
    next_index: int
    turns: list[Map] = field(default_factory=list)


@dataclass(frozen=True)
class SavedReply:
    """A terminal reply: whose session, opened with which key, to which request, and its frame."""

    session: str
    owner: str
    id: Id
    frame: bytes


class StateStore:
    """The file ``state.sqlite`` in a folder, used by one thread of one process.

    Raises ``Unavailable`` if the folder is in use, cannot be written, or holds something else; a
    method that fails leaves what was committed before.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._log_bytes: dict[str, int] = {}
        self._log_patches: dict[str, int] = {}
        self._state_bytes: dict[str, int] = {}
        with self._explained():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=1.0, check_same_thread=False)
            try:
                os.chmod(self.path, 0o600)
                self._open()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Give the file back; what was not committed is forgotten."""
        self._database.close()

    def commit(self) -> None:
        """Make everything written so far durable."""
        if self._database.in_transaction:
            with self._explained():
                self._database.commit()

    def worlds(self) -> list[SavedWorld]:
        """All worlds, each with its patches."""
        out = []
        with self._explained():
            for name, *blobs, seq in self._rows("SELECT name, fields, state, seq FROM worlds"):
                fields, state = (msgpack.unpackb(blob) for blob in blobs)
                world = SavedWorld(name, fields, state, seq)
                rows = self._rows(
                    "SELECT seq, kind, content FROM patches WHERE world = ? ORDER BY seq", name
                )
                log = [(number, kind, content) for number, kind, content in rows]
                world.patches = [Patch(n, kind, msgpack.unpackb(blob)) for n, kind, blob in log]
                self._log_bytes[name] = sum(len(blob) for _, _, blob in log)
                self._log_patches[name] = len(log)
                self._state_bytes[name] = len(blobs[1])
                out.append(world)
        return out

    def definitions(self) -> list[Definition]:
        """All definitions, in the order in which their owners were made."""
        with self._explained():
            rows = self._rows("SELECT owner, op, fields FROM definitions ORDER BY number")
            return [Definition(owner, op, msgpack.unpackb(blob)) for owner, op, blob in rows]

    def memories(self) -> dict[str, SavedMemory]:
        """What each agent remembers."""
        with self._explained():
            out = {
                agent: SavedMemory(version, next_index)
                for agent, version, next_index in self._rows("SELECT * FROM memories")
            }
            for agent, blob in self._rows("SELECT agent, turn FROM turns ORDER BY agent, number"):
                out[agent].turns.append(msgpack.unpackb(blob))
        return out

    def replies(self) -> list[tuple[int, SavedReply]]:
        """All replies with their numbers, oldest first."""
        with self._explained():
            rows = self._rows("SELECT * FROM replies ORDER BY number")
            return [
                (number, SavedReply(session, owner, msgpack.unpackb(request_id), frame))
                for number, session, owner, request_id, frame in rows
            ]

    def add_reply(self, reply: SavedReply) -> int:
        """Write a reply; return its number, higher than any before."""
        with self._explained():
            cursor = self._database.execute(
                "INSERT INTO replies (session, owner, id, frame) VALUES (?, ?, ?, ?)",
                (reply.session, reply.owner, msgpack.packb(reply.id), reply.frame),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def delete_replies(self, last: int) -> None:
        """Delete the replies up to the number ``last``."""
        self._write("DELETE FROM replies WHERE number <= ?", last)

    def put_world(self, name: str, fields: Map, state: Any, seq: int) -> None:
        """Write a world whole; ``fields`` are those of its ``world.put`` without the state."""
        blob = msgpack.packb(state)
        self._write("DELETE FROM patches WHERE world = ?", name)
        self._write(
            "INSERT OR REPLACE INTO worlds VALUES (?, ?, ?, ?)",
            *(name, msgpack.packb(fields), blob, seq),
        )
        self._log_bytes[name] = self._log_patches[name] = 0
        self._state_bytes[name] = len(blob)

    def add_patch(self, name: str, fields: Map, patch: Patch, before: Any) -> None:
        """Log a patch of a world. ``before`` is the state it changed, written if the log is long.

        The last patch always stays in the log, so that a client that repeats it after a restart
        is recognised.
        """
        is_long = self._log_bytes[name] > max(MIN_LOG_BYTES, self._state_bytes[name])
        if is_long or self._log_patches[name] >= MAX_LOG_PATCHES:
            self.put_world(name, fields, before, patch.seq - 1)
        blob = msgpack.packb(patch.content)
        self._write("INSERT INTO patches VALUES (?, ?, ?, ?)", *(name, patch.seq, patch.kind, blob))
        self._log_bytes[name] += len(blob)
        self._log_patches[name] += 1

    def delete_world(self, name: str) -> None:
        self._write("DELETE FROM worlds WHERE name = ?", name)
        self._write("DELETE FROM patches WHERE world = ?", name)
        self._write("DELETE FROM definitions WHERE owner = ?", f"world {name}")

    def define(self, definition: Definition) -> None:
        """Write a definition in the place of the one with the same owner and operation."""
        self._write(
            "INSERT INTO definitions (owner, op, fields) VALUES (?, ?, ?)"
            " ON CONFLICT (owner, op) DO UPDATE SET fields = excluded.fields",
            *(definition.owner, definition.op, msgpack.packb(definition.fields)),
        )

    def undefine(self, owner: str, op: str) -> None:
        self._write("DELETE FROM definitions WHERE owner = ? AND op = ?", owner, op)

    def delete_agent(self, name: str) -> None:
        self._write("DELETE FROM definitions WHERE owner = ?", f"agent {name}")
        self._write("DELETE FROM memories WHERE agent = ?", name)
        self._write("DELETE FROM turns WHERE agent = ?", name)

    def put_memory(self, agent: str, memory: SavedMemory) -> None:
        """Write an agent's ``memory.turns`` under their ``index``; other turns stay."""
        self._write(
            "INSERT OR REPLACE INTO memories VALUES (?, ?, ?)",
            *(agent, memory.version, memory.next_index),
        )
        for turn in memory.turns:
            self._write(
                "INSERT OR REPLACE INTO turns VALUES (?, ?, ?)",
                *(agent, turn["index"], msgpack.packb(turn)),
            )

    def delete_turns(self, agent: str, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._write("DELETE FROM turns WHERE agent = ? AND number = ?", agent, number)

    def _open(self) -> None:
        # Exclusive: a second server on the same folder must fail, not mix its worlds in.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            self._database.execute(f"PRAGMA {pragma}").close()
        self._database.execute("BEGIN IMMEDIATE")
        ((version,),) = self._rows("PRAGMA user_version")
        if version == 0:
            self._database.executescript(f"{_TABLES} PRAGMA user_version = {VERSION};")
        elif version != VERSION:
            raise Unavailable(
                f"{self.path} was written by another version of game-agent; use another folder"
            )
        self._database.commit()

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(query, values).fetchall()

    def _write(self, statement: str, *values: Any) -> None:
        with self._explained():
            self._database.execute(statement, values)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            hint = "is another server using it?" if "locked" in str(error) else "is the disk full?"
            raise Unavailable(f"cannot use the state in {self.path}: {error}; {hint}") from error

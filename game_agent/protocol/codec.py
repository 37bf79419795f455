"""Bytes to plain maps and back.

The codec knows what MessagePack may carry here (string keys, each once; finite numbers; no
extension types; no more than the limits allow), not what the fields mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

from game_agent.errors import GameAgentError, InvalidInput, ProtocolError, TooLarge
from game_agent.protocol.limits import Limits

Map = dict[str, Any]
Path = tuple["Path", str | int] | None
"""A place in a message as a linked list, so that walking a large message builds no strings."""


@dataclass(frozen=True)
class Decoded:
    """A frame that is a map. ``error`` says what is wrong with it; its id can still be read."""

    fields: Map
    error: GameAgentError | None = None


def decode(frame: bytes, limits: Limits) -> Decoded:
    """Read one frame. Raises ``ProtocolError`` or ``TooLarge`` if not even a map is left."""
    if len(frame) > limits.max_frame_bytes:
        raise TooLarge(f"the message has {len(frame)} bytes, the limit is {limits.max_frame_bytes}")
    builder = _Builder(limits.max_items)
    try:
        value = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=False,
            object_pairs_hook=builder.map,
            list_hook=builder.array,
        )
    except (ValueError, msgpack.UnpackException, OverflowError) as error:
        raise ProtocolError(f"the frame is not one MessagePack value: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("the frame is not a MessagePack map")
    return Decoded(value, builder.error or _first_error(value, limits))


def decode_reply(frame: bytes) -> Map:
    """Read a frame from a server. Raises ``ProtocolError`` if it is not a MessagePack map."""
    try:
        value = msgpack.unpackb(frame, raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the server sent a frame that cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("the server sent a frame that is not a map")
    return value


def encode(fields: Map) -> bytes:
    """One map as one frame. Raises ``InvalidInput`` for values without a plain MessagePack type."""
    try:
        frame: bytes = msgpack.packb(fields, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"the message cannot be encoded: {error}") from error
    return frame


class _Builder:
    """Builds containers while a frame is read, and remembers the first thing wrong with a map."""

    def __init__(self, max_items: int) -> None:
        self._items_left = max_items
        self.error: GameAgentError | None = None

    def array(self, items: list[Any]) -> list[Any]:
        self._count(len(items))
        return items

    def map(self, pairs: Iterable[tuple[Any, Any]]) -> Map:
        out: Map = {}
        for key, value in pairs:
            self._count(1)
            if not isinstance(key, str):
                self._keep(InvalidInput(f"the keys of a map must be strings, got {key!r:.50}"))
            elif key in out:
                self._keep(InvalidInput(f"the key {key[:50]!r} appears twice", where=key[:50]))
            else:
                out[key] = value
        return out

    def _count(self, num_items: int) -> None:
        self._items_left -= num_items
        if self._items_left < 0:
            raise TooLarge("the message has more items than the limit max_items allows")

    def _keep(self, error: GameAgentError) -> None:
        self.error = self.error or error


def _first_error(message: Map, limits: Limits) -> GameAgentError | None:
    """Walk a message without recursion; return the first value that may not be there."""
    waiting: list[tuple[Any, int, Path]] = [(message, 1, None)]
    while waiting:
        container, depth, path = waiting.pop()
        if depth > limits.max_depth:
            return TooLarge(
                f"the message is nested deeper than {limits.max_depth}", where=_dotted(path)
            )
        entries = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in entries:
            if isinstance(key, str) and len(key) > limits.max_string_chars:
                return _long_string(limits, path)
            if isinstance(value, dict | list):
                waiting.append((value, depth + 1, (path, key)))
            elif error := _scalar_error(value, depth, limits, (path, key)):
                return error
    return None


def _scalar_error(value: Any, depth: int, limits: Limits, path: Path) -> GameAgentError | None:
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, str):
        return _long_string(limits, path) if len(value) > limits.max_string_chars else None
    if isinstance(value, float):
        if math.isfinite(value):
            return None
        return InvalidInput("numbers must be finite", where=_dotted(path))
    if isinstance(value, bytes):
        # Game state is JSON, which has no binary; only a field of its own may be.
        if depth == 1:
            return None
        return InvalidInput("binary is not allowed here, send a string", where=_dotted(path))
    return ProtocolError("MessagePack extension types are not allowed", where=_dotted(path))


def _long_string(limits: Limits, path: Path) -> TooLarge:
    return TooLarge(
        f"a string is longer than {limits.max_string_chars} characters", where=_dotted(path)
    )


def _dotted(path: Path) -> str | None:
    """``(((None, "asks"), 0), "id")`` -> ``"asks.0.id"``, the end of a long path left out."""
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(str(part)[:50])
    return ".".join(reversed(parts))[:200] or None

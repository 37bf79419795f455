"""A block: an immutable list of tokens, encoded as one frame, and the keys that name its KV."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from game_agent.errors import InvalidInput

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Block:
    """Token ids ``[n]`` int32, n ≥ 1, and where they come from (for people to read).

    Raises :class:`InvalidInput` when there are none, or one is negative.
    """

    tokens: Ints
    source: str = ""
    digest: bytes = field(init=False)
    highest: int = field(init=False)

    def __post_init__(self) -> None:
        if not len(self.tokens) or self.tokens.min() < 0:
            raise InvalidInput("a block needs at least one token, and none below 0", where="blocks")
        object.__setattr__(self, "highest", int(self.tokens.max()))
        object.__setattr__(self, "digest", _hash(self.tokens.tobytes()))

    def __len__(self) -> int:
        return len(self.tokens)


def block_key(model: bytes, block: Block) -> bytes:
    """Names the KV of a block encoded alone: it depends on the model and the block's tokens."""
    return b"b" + model + block.digest


def chain_keys(model: bytes, blocks: Iterable[Block]) -> list[bytes]:
    """Names the KV of blocks encoded one after another, as plain causal attention does.

    Each depends on all tokens up to its end, so each key is a hash over the one before.
    """
    keys = []
    previous = b"f" + model
    for block in blocks:
        previous = b"f" + _hash(previous + block.digest)
        keys.append(previous)
    return keys


# Modes whose entries are the same for everybody, and for a later process with the same model.
SHARED_MODES = ("block", "full")


def block_keys(model: bytes, blocks: Iterable[Block], mode: str) -> list[bytes]:
    """The keys of a prompt's blocks in ``block`` or ``full`` mode, in order.

    The first byte tells the mode: ``b"b"`` or ``b"f"``.
    """
    if mode == "full":
        return chain_keys(model, blocks)
    return [block_key(model, block) for block in blocks]


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()

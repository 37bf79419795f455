"""The prompt of one question: which blocks, in which order, and the event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from game_agent.agents.character import Character
from game_agent.agents.lore import ActiveLore
from game_agent.agents.memory import Memory, Turn
from game_agent.agents.partition import Part
from game_agent.agents.rendering import collapse
from game_agent.blocks.block import Block
from game_agent.errors import TooLarge
from game_agent.text.formats import PromptEncoder

Ints = npt.NDArray[np.int32]


class BlockCache:
    """Texts to blocks. Most texts of a prompt were in the one before, so most are found here."""

    def __init__(self, encoder: PromptEncoder, max_blocks: int = 65536) -> None:
        self.encoder = encoder
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[tuple[str, bool], Block] = OrderedDict()

    def block(self, text: str, source: str, *, first: bool = False) -> Block:
        """The block of ``text``; ``source`` is kept from the first time it was seen."""
        key = (text, first)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = Block(self.encoder.block(text, first=first), source)
            if len(self._blocks) > self._max_blocks:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(key)
        return block


@dataclass(frozen=True)
class Prompt:
    """Blocks in order, and where in this prompt each comes from: ``world:/inn``, ``memory:7``.

    (A block is shared: its own ``source`` is that of whoever made it first.)
    """

    blocks: tuple[Block, ...]
    sources: tuple[str, ...]


def build_prompt(
    cache: BlockCache,
    character: Character,
    parts: Iterable[Part],
    lore: Sequence[ActiveLore],
    memory: Memory,
    max_tokens: int,
    memory_tokens: int | None = None,
) -> Prompt:
    """At most ``max_tokens`` tokens: the character, what it sees, lore, what it remembers.

    The character and the world are never left out. Lore has half of what they leave at most, and
    the character's examples half of the rest; memory takes what remains, or ``memory_tokens`` if
    that is less. Raises :class:`TooLarge` when the character and the world alone are too long.
    """
    fixed = [("character", cache.block(character.text, "character", first=True))]
    fixed += [(s, cache.block(part.text, s)) for part in parts for s in (f"world:{part.path}",)]
    room = max_tokens - _num_tokens(fixed)
    if room < 0:
        raise TooLarge(
            f"the character and what it sees of the world have {max_tokens - room} tokens, "
            f"{max_tokens} fit beside the question; narrow `sees`, or load a model with more context"
        )
    told = [entry for active in lore for entry in _lore(cache, active, character, room // 2)]
    room -= _num_tokens(told)
    examples = _examples(cache, character, room // 2)
    room -= _num_tokens(examples)
    if memory_tokens is not None:
        room = min(room, memory_tokens)
    entries = [*fixed, *told, *examples, *_remembered(cache, memory, character.name, room)]
    return Prompt(tuple(b for _, b in entries), tuple(source for source, _ in entries))


_Entry = tuple[str, Block]


def _num_tokens(entries: Iterable[_Entry]) -> int:
    return sum(len(block) for _, block in entries)

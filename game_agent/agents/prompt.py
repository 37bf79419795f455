"""The prompt of one question: which blocks, in which order, and the event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from game_agent.agents.memory import Turn
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


def build_prompt(
    cache: BlockCache,
    character: str,
    parts: Iterable[Part],
    turns: Sequence[Turn],
    agent_name: str,
    max_tokens: int,
) -> tuple[Block, ...]:
    """Blocks of at most ``max_tokens`` tokens: the character, what it sees, what it remembers.

    When memory does not fit, the oldest turns are left out; the character and the world never are.
    Raises :class:`TooLarge` when those alone are too long.
    """
    blocks = [cache.block(character, "character", first=True)]
    blocks += [cache.block(part.text, f"world:{part.path}") for part in parts]
    room = max_tokens - sum(len(block) for block in blocks)
    if room < 0:
        raise TooLarge(
            f"the character and what it sees of the world have {max_tokens - room} tokens, "
            f"{max_tokens} fit beside the question; narrow `sees`, or load a model with more context"
        )
    remembered: list[Block] = []
    for turn in reversed(turns):
        block = cache.block(turn_text(turn, agent_name), f"memory:{turn.index}")
        room -= len(block)
        if room < 0:
            break
        remembered.append(block)
    return (*blocks, *reversed(remembered))


def turn_text(turn: Turn, agent_name: str) -> str:
    """A finished turn as the text of its block."""
    if turn.kind == "event":
        return f"Event: {collapse(turn.text)}"
    return f"{event_text(turn.speaker, turn.text)}\n{agent_name}: {collapse(turn.reply or '')}"


def event_text(speaker: str, text: str) -> str:
    """What somebody says, on one line, so that no text can speak for another."""
    name = collapse(speaker)
    return f"{name[:1].upper()}{name[1:]}: {collapse(text)}"

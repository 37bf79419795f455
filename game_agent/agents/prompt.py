"""The prompt of one question: which blocks, in which order, and the event."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from game_agent.agents.budget import MemoryBudget
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

    def followed_by(self, block: Block, source: str) -> Prompt:
        """The prompt with one more block at its end."""
        return Prompt((*self.blocks, block), (*self.sources, source))


def build_prompt(
    cache: BlockCache,
    character: Character,
    parts: Iterable[Part],
    lore: Sequence[ActiveLore],
    memory: Memory,
    max_tokens: int,
    budget: MemoryBudget,
    query: str | None = None,
) -> Prompt:
    """At most ``max_tokens`` tokens: the character, what it sees, lore, what it remembers.

    The character and the world are never left out. Each lorebook has half of what is left at most,
    and so have the character's examples; memory takes what remains, or its ``budget`` if that is
    less. ``query`` is what older turns are recalled for. Raises :class:`TooLarge` when the
    character and the world alone are too long.
    """
    fixed = [("character", cache.block(character.text, "character", first=True))]
    for part in parts:
        source = f"world:{part.path}"
        fixed.append((source, cache.block(part.text, source)))
    room = max_tokens - _num_tokens(fixed)
    if room < 0:
        raise TooLarge(
            f"the character and what it sees of the world have {max_tokens - room} tokens, "
            f"{max_tokens} fit beside the question; narrow `sees`, or load a model with more "
            "context"
        )
    told: list[_Entry] = []
    for active in lore:
        told += _lore(cache, active, character, (room - _num_tokens(told)) // 2)
    room -= _num_tokens(told)
    examples = _examples(cache, character, room // 2)
    room -= _num_tokens(examples)
    if budget.tokens is not None:
        room = min(room, budget.tokens)
    remembered = _Remembered(cache, memory, character.name)
    entries = [*fixed, *told, *examples, *remembered.entries(room, budget, query)]
    return Prompt(tuple(b for _, b in entries), tuple(source for source, _ in entries))


_Entry = tuple[str, Block]


def _num_tokens(entries: Iterable[_Entry]) -> int:
    return sum(len(block) for _, block in entries)


def _lore(cache: BlockCache, active: ActiveLore, character: Character, room: int) -> list[_Entry]:
    """Entries of one book that fit its token budget and ``room``, in order of insertion."""
    if active.token_budget is not None:
        room = min(room, active.token_budget)
    blocks: dict[int, _Entry] = {}
    for entry in active.by_priority():
        source = f"lore:{entry.name}"
        block = cache.block(character.fill(entry.text), source)
        room -= len(block)
        if room < 0:
            break
        blocks[id(entry)] = (source, block)
    return [blocks[id(entry)] for entry in active.entries if id(entry) in blocks]


def _examples(cache: BlockCache, character: Character, room: int) -> list[_Entry]:
    examples: list[_Entry] = []
    for number, text in enumerate(character.examples):
        source = f"example:{number}"
        block = cache.block(text, source)
        room -= len(block)
        if room < 0:
            break
        examples.append((source, block))
    return examples


class _Remembered:
    """Chooses turns of a memory; only those that fit are looked at, however many there are."""

    def __init__(self, cache: BlockCache, memory: Memory, name: str) -> None:
        self._cache = cache
        self._memory = memory
        self._name = name

    def entries(self, room: int, budget: MemoryBudget, query: str | None) -> list[_Entry]:
        """Turns of at most ``room`` tokens, oldest first.

        The pinned ones, as many of the latest as fit beside them, and up to ``budget.recall`` older
        ones that ``query`` is about, which take at most half of what the pinned ones leave.
        """
        chosen: dict[int, _Entry] = {}
        room = self._fill(chosen, reversed(self._memory.pinned()), room)
        latest = dict(chosen)
        self._fill(latest, self._memory.newest_first(), room)
        is_all = len(latest) == len(self._memory)
        if query is None or not budget.recall or is_all:
            return [latest[index] for index in sorted(latest)]
        oldest = min(latest.keys() - chosen.keys(), default=self._memory.next_index)
        recalled = self._memory.recall(query, budget.recall, before=oldest)
        room -= room // 2 - self._fill(chosen, recalled, room // 2)
        self._fill(chosen, self._memory.newest_first(), room)
        return [chosen[index] for index in sorted(chosen)]

    def _fill(self, chosen: dict[int, _Entry], turns: Iterable[Turn], room: int) -> int:
        """Adds turns up to the first that does not fit; returns what is left of the room."""
        for turn in turns:
            if turn.index in chosen:
                continue
            source = f"memory:{turn.index}"
            block = self._cache.block(turn_text(turn, self._name), source)
            if len(block) > room:
                break
            room -= len(block)
            chosen[turn.index] = (source, block)
        return room


def turn_text(turn: Turn, agent_name: str) -> str:
    """A finished turn as the text of its block."""
    if turn.kind == "event":
        return f"Event: {collapse(turn.text)}"
    return f"{event_text(turn.speaker, turn.text)}\n{agent_name}: {collapse(turn.reply or '')}"


def event_text(speaker: str, text: str) -> str:
    """What somebody says, on one line, so that no text can speak for another."""
    name = collapse(speaker)
    return f"{name[:1].upper()}{name[1:]}: {collapse(text)}"

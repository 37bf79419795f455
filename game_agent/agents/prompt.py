"""The prompt of one question: which blocks, in which order, and the event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.character import Character
from game_agent.agents.lore import ActiveLore
from game_agent.agents.memory import Memory
from game_agent.agents.partition import Part
from game_agent.agents.remembered import Entry, Remembered
from game_agent.blocks.block import Block
from game_agent.errors import TooLarge


@dataclass(frozen=True)
class Prompt:
    """Blocks in order, and where in this prompt each comes from: ``world:/inn``, ``memory:7``.

    (A block is shared: its own ``source`` is that of whoever made it first.)
    """

    blocks: tuple[Block, ...]
    sources: tuple[str, ...]
    memory_room: int
    """How many tokens of memory there was room for."""

    def followed_by(self, block: Block, source: str) -> Prompt:
        """The prompt with one more block at its end."""
        return Prompt((*self.blocks, block), (*self.sources, source), self.memory_room)


def character_block(cache: BlockCache, character: Character) -> Block:
    """The first block of every prompt: who the character is, and its instructions."""
    return cache.block(character.text, "character", first=True)


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
    fixed = [("character", character_block(cache, character))]
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
    told: list[Entry] = []
    for active in lore:
        told += _lore(cache, active, character, (room - _num_tokens(told)) // 2)
    room -= _num_tokens(told)
    examples = _examples(cache, character, room // 2)
    room -= _num_tokens(examples)
    if budget.tokens is not None:
        room = min(room, budget.tokens)
    remembered = Remembered(cache, memory, character.name)
    entries = [*fixed, *told, *examples, *remembered.entries(room, budget, query)]
    return Prompt(tuple(b for _, b in entries), tuple(source for source, _ in entries), room)


def _num_tokens(entries: Iterable[Entry]) -> int:
    return sum(len(block) for _, block in entries)


def _lore(cache: BlockCache, active: ActiveLore, character: Character, room: int) -> list[Entry]:
    """Entries of one book that fit its token budget and ``room``, in order of insertion."""
    if active.token_budget is not None:
        room = min(room, active.token_budget)
    blocks: dict[int, Entry] = {}
    for entry in active.by_priority():
        source = f"lore:{entry.name}"
        text = character.fill(entry.text).strip()
        if not text:
            continue
        block = cache.block(text, source)
        room -= len(block)
        if room < 0:
            break
        blocks[id(entry)] = (source, block)
    return [blocks[id(entry)] for entry in active.entries if id(entry) in blocks]


def _examples(cache: BlockCache, character: Character, room: int) -> list[Entry]:
    examples: list[Entry] = []
    for number, text in enumerate(character.examples):
        source = f"example:{number}"
        block = cache.block(text, source)
        room -= len(block)
        if room < 0:
            break
        examples.append((source, block))
    return examples

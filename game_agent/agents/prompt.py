"""The prompt of one question: which blocks, in which order, and the event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from game_agent.agents.blockcache import BlockCache
from game_agent.agents.budget import MemoryBudget
from game_agent.agents.character import Character
from game_agent.agents.lore import ActiveLore
from game_agent.agents.memory import Memory
from game_agent.agents.nodes import Part
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
    less. Lore for before the character opens the prompt. ``query`` is what older turns are recalled
    for. Raises :class:`TooLarge` when the character and the world alone are too long.
    """
    opening = _opening(cache, character)
    body = [(f"world:{part.path}", cache.block(part.text, f"world:{part.path}")) for part in parts]
    room = max_tokens - _num_tokens(opening) - _num_tokens(body)
    if room < 0:
        raise TooLarge(
            f"the character and what it sees of the world have {max_tokens - room} tokens, "
            f"{max_tokens} fit beside the question; narrow `sees`, or load a model with more "
            "context"
        )
    told = _lore(cache, lore, character, room)
    body += [(each.source, each.block) for each in told if not each.is_before]
    if before := [each for each in told if each.is_before]:
        # The first block of a prompt may be longer than the same text elsewhere.
        longer = _opening(cache, character, before)
        if _num_tokens(longer) + _num_tokens(body) <= max_tokens:
            opening = longer
    room = max_tokens - _num_tokens(opening) - _num_tokens(body)
    examples = _examples(cache, character, room // 2)
    room -= _num_tokens(examples)
    if budget.tokens is not None:
        room = min(room, budget.tokens)
    remembered = Remembered(cache, memory, character.name)
    entries = [*opening, *body, *examples, *remembered.entries(room, budget, query)]
    return Prompt(tuple(b for _, b in entries), tuple(source for source, _ in entries), room)


class Told(NamedTuple):
    """Lore that is told now."""

    source: str
    text: str
    block: Block
    is_before: bool


def _opening(cache: BlockCache, character: Character, before: Iterable[Told] = ()) -> list[Entry]:
    """The character, and what stands before it."""
    texts = [*((told.source, told.text) for told in before), ("character", character.text)]
    return [
        (source, cache.block(text, source, first=not i)) for i, (source, text) in enumerate(texts)
    ]


def _num_tokens(entries: Iterable[Entry]) -> int:
    return sum(len(block) for _, block in entries)


def _lore(
    cache: BlockCache, books: Iterable[ActiveLore], character: Character, room: int
) -> list[Told]:
    """What fits, of each book at most half of what those before it leave."""
    told: list[Told] = []
    for active in books:
        added = _told(cache, active, character, room // 2)
        room -= sum(len(each.block) for each in added)
        told += added
    return told


def _told(cache: BlockCache, active: ActiveLore, character: Character, room: int) -> list[Told]:
    """Entries of one book that fit its token budget and ``room``, in order of insertion."""
    if active.token_budget is not None:
        room = min(room, active.token_budget)
    told: dict[int, Told] = {}
    for entry in active.by_priority():
        source = f"lore:{entry.name}"
        text = character.fill(entry.text).strip()
        if not text:
            continue
        block = cache.block(text, source)
        room -= len(block)
        if room < 0:
            break
        told[id(entry)] = Told(source, text, block, entry.is_before_char)
    return [told[id(entry)] for entry in active.entries if id(entry) in told]


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

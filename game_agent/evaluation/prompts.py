"""What a record becomes in a prompt: its blocks, demonstrations before them, the question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from game_agent.agents.blockcache import BlockCache
from game_agent.blocks.block import Block
from game_agent.errors import InvalidInput
from game_agent.evaluation.records import Record
from game_agent.text.formats import PromptEncoder

Ints = npt.NDArray[np.int32]
# The wording that Tulu3-Block-FT and its siblings were fine-tuned with (arXiv 2409.15355).
PAPER_INSTRUCTION = (
    "You are an intelligent AI assistant. Please answer questions based on the user's "
    "instructions. Below are some reference documents that may help you in answering the user's "
    "question."
)
PAPER_QUESTION = (
    "Please write a high-quality answer for the given question using only the provided search "
    "documents (some of which might be irrelevant).\nQuestion: {question}"
)


@dataclass(frozen=True)
class Wording:
    """What is written around a record's own texts.

    instruction:    a block before all others; empty: none
    question:       the event, with ``{question}`` in it
    demonstration:  a solved record as a block, with ``{question}`` and ``{answer}`` in it
    """

    instruction: str = ""
    question: str = "{question}"
    demonstration: str = "Question: {question}\nAnswer: {answer}"

    def __post_init__(self) -> None:
        if "{question}" not in self.question:
            raise InvalidInput("the wording of questions must have {question} in it")


PAPER = Wording(PAPER_INSTRUCTION, PAPER_QUESTION)


class Demonstrations:
    """Solved records that stand before the blocks of others: in-context learning.

    All records get the same ones, so that their keys and values are computed once; a record that
    is one of them itself gets a spare one instead.
    """

    def __init__(self, pool: Sequence[Record], number: int, seed: int) -> None:
        """Raises :class:`InvalidInput` where ``pool`` has not ``number`` and a spare one."""
        if number and len(pool) <= number:
            raise InvalidInput(
                f"{number} demonstrations and a spare one cannot be chosen from {len(pool)} records"
            )
        self._number = number
        self._chosen = random.Random(seed).sample(pool, number + 1) if number else []

    def of(self, record: Record) -> list[Record]:
        """Those for ``record``, never itself."""
        others = [
            each
            for each in self._chosen
            if (each.question, each.blocks) != (record.question, record.blocks)
        ]
        return others[: self._number]


class Prompts:
    """Records to blocks and events, in one model's prompt format."""

    def __init__(
        self, encoder: PromptEncoder, wording: Wording, demonstrations: Demonstrations
    ) -> None:
        self._cache = BlockCache(encoder)
        self._wording = wording
        self._demonstrations = demonstrations

    def blocks(self, record: Record) -> tuple[Block, ...]:
        texts = [self._wording.instruction] if self._wording.instruction else []
        for each in self._demonstrations.of(record):
            filled = self._wording.demonstration.replace("{answer}", each.answers[0])
            texts.append(filled.replace("{question}", each.question))
        return tuple(
            self._cache.block(text, record.id, first=not index)
            for index, text in enumerate((*texts, *record.blocks))
        )

    def event(self, record: Record) -> Ints:
        asked = self._wording.question.replace("{question}", record.question)
        return self._cache.encoder.event(asked)


def edited(blocks: Sequence[Block], spare: Block, rng: random.Random) -> tuple[Block, ...]:
    """``blocks`` as they may have been a moment ago: one, not the first or last, is ``spare``."""
    before = list(blocks)
    if len(before) > 2:
        before[rng.randrange(1, len(before) - 1)] = spare
    return tuple(before)

"""Records as tokens, exactly as the runtime would send them to the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from game_agent.errors import InvalidInput
from game_agent.finetuning.reading import Problem
from game_agent.finetuning.records import Record
from game_agent.model.spec import load_spec
from game_agent.text.choosing import choose_format
from game_agent.text.formats import Ints, PromptEncoder
from game_agent.text.tokenizer import Tokenizer

Question = tuple[Ints, Ints]


@dataclass(frozen=True)
class Sample:
    """A prompt's blocks with questions on them, in tokens; all arrays are [n ≥ 1] int32.

    sink:      what begins the prompt and stands before every block, None without one
    questions: (event up to where the reply begins, reply and the token that ends it)
    """

    blocks: tuple[Ints, ...]
    questions: tuple[Question, ...]
    sink: Ints | None = None

    @property
    def num_context(self) -> int:
        """Tokens before the event."""
        return sum(map(len, self.blocks)) + (0 if self.sink is None else len(self.sink))

    @property
    def num_tokens(self) -> int:
        """Tokens that a forward pass takes: context once, questions behind it."""
        copies = 0 if self.sink is None else len(self.sink) * (len(self.blocks) - 1)
        return self.num_context + copies + sum(_length(q) for q in self.questions)


def num_shared(samples: Sequence[Sample], others: Sequence[Sample]) -> int:
    """How many questions of ``others`` are in ``samples`` as well, on the same blocks."""
    known = set(_keys(samples)) if others else set()
    return sum(key in known for key in _keys(others))


def _keys(samples: Sequence[Sample]) -> Iterator[tuple[bytes, ...]]:
    for sample in samples:
        blocks = [block.tobytes() for block in sample.blocks]
        yield from ((*blocks, event.tobytes()) for event, _ in sample.questions)


class SampleEncoder:
    """Records to samples, in the prompt format of one checkpoint.

    max_tokens: of a sample, at most; raises :class:`InvalidInput` if it is more than the model's
                context holds. Other arguments as for ``game_agent.model.runner.load_runner``, which
                raises :class:`ModelError` as this does.
    """

    def __init__(
        self,
        folder: Path,
        max_tokens: int,
        *,
        prompt_format: str | None = None,
        prompt_prefix: str = "",
        sink: str | None = None,
    ) -> None:
        spec = load_spec(folder)
        if not 1 < max_tokens <= spec.max_context_tokens:
            raise InvalidInput(
                f"a sample of {max_tokens} tokens does not fit the model, whose context holds "
                f"{spec.max_context_tokens}; give a smaller --max-tokens",
                where="max_tokens",
            )
        self.max_tokens = max_tokens
        tokenizer = Tokenizer.load(folder)
        chosen = choose_format(folder, tokenizer, prompt_format, prompt_prefix)
        self.encoder = PromptEncoder(tokenizer, chosen)
        self.sink = None if sink is None else self.encoder.block(sink)
        ends = (*self.encoder.stop_token_ids, *spec.stop_token_ids)
        if not ends:
            raise InvalidInput(
                f"nothing ends a reply of {folder}: neither its prompt format nor eos_token_id in "
                "config.json; choose another --prompt-format"
            )
        self.end = ends[0]

    def encode(self, records: Sequence[Record]) -> tuple[list[Sample], list[Problem]]:
        """Samples of all records that fit, and those that do not.

        Questions of one record that do not fit together become several samples.
        """
        samples: list[Sample] = []
        problems: list[Problem] = []
        for record in records:
            try:
                samples += self._samples(record)
            except InvalidInput as error:
                problems.append(Problem(record.where, error.message))
        return samples, problems

    def _samples(self, record: Record) -> list[Sample]:
        blocks = tuple(
            self.encoder.block(text, first=not i) for i, text in enumerate(record.blocks)
        )
        questions = tuple(
            (self.encoder.event(question.text), self._reply(question.answer))
            for question in record.questions
        )
        room = self.max_tokens - Sample(blocks, (), self.sink).num_tokens
        longest = max(map(_length, questions))
        if longest > room:
            raise InvalidInput(
                f"it has {self.max_tokens - room + longest} tokens, {self.max_tokens} is the limit"
            )
        return [Sample(blocks, group, self.sink) for group in _groups(questions, room)]

    def _reply(self, text: str) -> Ints:
        return np.array([*self.encoder.tokenizer.encode(text), self.end], np.int32)


def _length(question: Question) -> int:
    """Rows of a question: its last token is predicted, but predicts nothing."""
    event, reply = question
    return len(event) + len(reply) - 1


def _groups(questions: Sequence[Question], room: int) -> Iterator[tuple[Question, ...]]:
    """``questions`` in order, in groups of at most ``room`` rows; each fits alone."""
    group: list[Question] = []
    left = room
    for question in questions:
        if _length(question) > left:
            yield tuple(group)
            group, left = [], room
        group.append(question)
        left -= _length(question)
    yield tuple(group)

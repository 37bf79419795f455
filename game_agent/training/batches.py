"""Scenes as tensors: packed tokens, positions, and who attends to whom."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from game_agent.training.scene import Question
from game_agent.training.tables import alike, doubling, frame_tables, padded, slots_of
from game_agent.training.tokens import BLOCK, END, EVENT, REPLY

MAX_POSITIONS = 16384
Ids = list[int]


@dataclass(frozen=True)
class Sample:
    """A scene in tokens.

    blocks:     token ids of each block, ``<|block|>`` first
    questions:  (event ids up to and with ``<|reply|>``, reply ids with ``<|end|>``)
    labels:     (skill, kind) of each question
    """

    blocks: list[Ids]
    questions: list[tuple[Ids, Ids]]
    labels: list[tuple[str, str]]


@dataclass(frozen=True)
class Batch:
    """Samples packed in one row of T tokens: all C context tokens first, then all event tokens.

    A frame is what attends to itself causally: a block, in full mode the whole context of a sample,
    and each event with its reply. Events attend to their sample's context as well.

    tokens, positions:  [T] int64
    context_frames:     tables [F, L] int64 of the rows of frames of like length, padded with the
                        last row of each
    context_slots:      [C] int64, where each context token stands in the flattened tables
    event_frames:       as context_frames, rows counted from C
    event_slots:        [T - C] int64
    lengths:            per sample (context tokens, event tokens), which follow one another
    group_contexts:     tables [n, K] int64 of the context rows of n samples of like lengths, padded
                        with the last one of each; empty: samples are computed one by one
    group_events:       tables [n, E] int64 of their event rows, counted from C, padded likewise
    group_lengths:      [n] int64 each, context tokens
    group_slots:        [T - C] int64, where each event token stands in flattened ``group_events``
    label_rows:         [N] int64, event rows, counted from C, whose next token is a reply's
    labels:             [N] int64
    label_questions:    [N] int64, the question, counted over the batch, that each belongs to
    num_questions:      how many there are
    """

    tokens: Tensor
    positions: Tensor
    context_frames: list[Tensor]
    context_slots: Tensor
    event_frames: list[Tensor]
    event_slots: Tensor
    lengths: list[tuple[int, int]]
    group_contexts: list[Tensor]
    group_events: list[Tensor]
    group_lengths: list[Tensor]
    group_slots: Tensor
    label_rows: Tensor
    labels: Tensor
    label_questions: Tensor
    num_questions: int

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``; from pinned memory without waiting for it."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU reads by itself; torch's ``DataLoader`` calls this."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**_changed(self._values, change))

    def __reduce__(self) -> tuple[Any, ...]:
        # As arrays: tensors would go from process to process in shared memory, of which containers
        # have little, with a file descriptor each.
        return _from_arrays, (_changed(self._values, Tensor.numpy),)

    @property
    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


def _from_arrays(values: dict[str, Any]) -> Batch:
    return Batch(**_changed(values, torch.from_numpy))


def _changed(values: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Fields of a batch with all tensors, or arrays, changed."""
    tables = ("_frames", "group_contexts", "group_events", "group_lengths")
    return {
        name: [change(table) for table in value]
        if name.endswith(tables)
        else change(value)
        if isinstance(value, Tensor | np.ndarray)
        else value
        for name, value in values.items()
    }


def encode_scene(
    tokenizer: Tokenizer, blocks: Sequence[str], questions: Sequence[Question]
) -> Sample:
    """Token ids in the runtime's ``plain`` format; ``tokenizer`` is one without special tokens."""
    texts = [*blocks, *(q.event for q in questions), *(q.reply for q in questions)]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    first_event, first_reply = len(blocks), len(blocks) + len(questions)
    events = [[EVENT, *event, REPLY] for event in ids[first_event:first_reply]]
    replies = [[*reply, END] for reply in ids[first_reply:]]
    return Sample(
        [[BLOCK, *block] for block in ids[:first_event]],
        list(zip(events, replies, strict=True)),
        [(question.skill, question.kind) for question in questions],
    )


def random_sample(rng: random.Random, num_blocks: int, num_questions: int, vocab: int) -> Sample:
    """Copying of random tokens: two tokens of a block are asked, those that follow are the reply.

    No word helps here: it teaches to look up and to copy, before there is any language.
    """
    low = len((BLOCK, EVENT, REPLY, END)) + 1
    blocks = [
        [BLOCK, *(rng.randrange(low, vocab) for _ in range(rng.randint(8, 24)))]
        for _ in range(num_blocks)
    ]
    questions = []
    for _ in range(num_questions):
        block = rng.choice(blocks)
        at = rng.randrange(1, len(block) - 3)
        questions.append(([EVENT, *block[at : at + 2], REPLY], block[at + 2 : at + 9]))
    return Sample(blocks, questions, [("random", "random")] * num_questions)


def origins(rng: random.Random, lengths: Sequence[int], spread: bool) -> list[int]:
    """Where each block begins, and last where the event does.

    With ``spread`` there are random gaps between them, so that few tokens show all distances.
    """
    ends = np.cumsum([0, *lengths])
    if not spread:
        return [int(end) for end in ends]
    room = max(0, MAX_POSITIONS - 512 - int(ends[-1]))
    room = int(room * rng.random() ** 2)
    gaps = sorted(rng.randint(0, room) for _ in ends)
    return [int(end) + gap for end, gap in zip(ends, gaps, strict=True)]


def collate(
    rng: random.Random,
    samples: Sequence[Sample],
    *,
    full: bool,
    spread: float = 0.0,
    grouped: bool = False,
) -> Batch:
    """Pack ``samples``; ``full`` is plain causal attention, else each block is encoded alone.

    ``spread`` is the share of samples with gaps between their blocks. ``grouped``: samples of like
    lengths are computed together, padded. A GPU wants that, as its time goes by the number of
    operations; on a CPU it costs more than it saves.
    """
    context, events = _Rows(), _Rows()
    frames: list[range] = []
    halves: list[tuple[range, range]] = []
    for sample in samples:
        starts = origins(rng, [len(block) for block in sample.blocks], rng.random() < spread)
        rows = [
            context.add(block, start) for block, start in zip(sample.blocks, starts, strict=False)
        ]
        whole = range(rows[0].start, rows[-1].stop)
        frames += [whole] if full else rows
        halves.append((whole, _add_events(events, sample, starts[-1])))
    context_frames, context_slots = frame_tables(frames)
    event_frames, event_slots = frame_tables(events.frames)
    return Batch(
        tokens=_tensor([*context.tokens, *events.tokens]),
        positions=_tensor([*context.positions, *events.positions]),
        context_frames=list(map(_tensor, context_frames)),
        context_slots=_tensor(context_slots),
        event_frames=list(map(_tensor, event_frames)),
        event_slots=_tensor(event_slots),
        lengths=[(len(contexts), len(asked)) for contexts, asked in halves],
        **_groups(halves if grouped else []),
        label_rows=_tensor(events.label_rows),
        labels=_tensor(events.labels),
        label_questions=_tensor(events.label_questions),
        num_questions=len(events.frames),
    )


def _groups(halves: Sequence[tuple[range, range]]) -> dict[str, Any]:
    """The fields that begin with ``group_``, from the context rows and event rows of samples."""
    groups = alike([(doubling(contexts), doubling(events)) for contexts, events in halves])
    contexts = [[halves[i][0] for i in group] for group in groups]
    events = [[halves[i][1] for i in group] for group in groups]
    tables = list(map(padded, events))
    return {
        "group_contexts": [_tensor(padded(group)) for group in contexts],
        "group_events": list(map(_tensor, tables)),
        "group_lengths": [_tensor(list(map(len, group))) for group in contexts],
        "group_slots": _tensor(slots_of(events, tables)),
    }


class _Rows:
    """Tokens and positions of one half of the batch as they are gathered."""

    def __init__(self) -> None:
        self.tokens: Ids = []
        self.positions: Ids = []
        self.frames: list[range] = []
        self.label_rows: Ids = []
        self.labels: Ids = []
        self.label_questions: Ids = []

    def add(self, ids: Ids, start: int) -> range:
        first = len(self.tokens)
        self.tokens += ids
        self.positions += range(start, start + len(ids))
        return range(first, len(self.tokens))


def _add_events(events: _Rows, sample: Sample, start: int) -> range:
    """All questions of a sample, each as if it were the only one. Returns their rows."""
    first = len(events.tokens)
    for event, reply in sample.questions:
        rows = events.add([*event, *reply[:-1]], start)
        events.label_rows += rows[len(event) - 1 :]
        events.labels += reply
        events.label_questions += [len(events.frames)] * len(reply)
        events.frames.append(rows)
    return range(first, len(events.tokens))


def _tensor(values: Ids | npt.NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.int64))

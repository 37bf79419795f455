"""Scenes as tensors: packed tokens, positions, and who attends to whom."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from game_agent.training.asking import make_questions
from game_agent.training.names import Split
from game_agent.training.scene import Question
from game_agent.training.scenes import make_scene
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
    context_frames:     tables [F, L] int64 of the rows of frames of like length, padded with row 0
    context_slots:      [C] int64, where each context token stands in the flattened tables
    event_frames:       as context_frames, rows counted from C
    event_slots:        [T - C] int64
    lengths:            per sample (context tokens, event tokens), which follow one another
    label_rows:         [N] int64, event rows, counted from C, whose next token is a reply's
    labels:             [N] int64
    label_questions:    [N] int64, the question, counted over the batch, that each belongs to
    """

    tokens: Tensor
    positions: Tensor
    context_frames: list[Tensor]
    context_slots: Tensor
    event_frames: list[Tensor]
    event_slots: Tensor
    lengths: list[tuple[int, int]]
    label_rows: Tensor
    labels: Tensor
    label_questions: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device)
            elif name.endswith("_frames"):
                values[name] = [table.to(device) for table in value]
        return Batch(**values)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


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
    rng: random.Random, samples: Sequence[Sample], *, full: bool, spread: float = 0.0
) -> Batch:
    """Pack ``samples``; ``full`` is plain causal attention, else each block is encoded alone.

    ``spread`` is the share of samples with gaps between their blocks.
    """
    context, events = _Rows(), _Rows()
    frames: list[range] = []
    lengths = []
    for sample in samples:
        starts = origins(rng, [len(block) for block in sample.blocks], rng.random() < spread)
        rows = [
            context.add(block, start) for block, start in zip(sample.blocks, starts, strict=False)
        ]
        whole = range(rows[0].start, rows[-1].stop)
        frames += [whole] if full else rows
        event_rows = _add_events(events, sample, starts[-1])
        lengths.append((len(whole), len(event_rows)))
    context_frames, context_slots = _tables(frames)
    event_frames, event_slots = _tables(events.frames)
    return Batch(
        tokens=_tensor([*context.tokens, *events.tokens]),
        positions=_tensor([*context.positions, *events.positions]),
        context_frames=context_frames,
        context_slots=context_slots,
        event_frames=event_frames,
        event_slots=event_slots,
        lengths=lengths,
        label_rows=_tensor(events.label_rows),
        labels=_tensor(events.labels),
        label_questions=_tensor(events.label_questions),
    )


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


def _tables(frames: Sequence[range]) -> tuple[list[Tensor], Tensor]:
    """Frames in padded tables, one for each doubling of length, and the slot of each row.

    Frames cover rows 0 … n - 1 without overlap.
    """
    groups: dict[int, list[range]] = {}
    for frame in frames:
        groups.setdefault((max(len(frame), 16) - 1).bit_length(), []).append(frame)
    slots = np.empty(sum(map(len, frames)), np.int64)
    tables, first = [], 0
    for _, group in sorted(groups.items()):
        longest = max(map(len, group))
        table = np.zeros((len(group), longest), np.int64)
        for i, frame in enumerate(group):
            table[i, : len(frame)] = frame
            start = first + i * longest
            slots[frame.start : frame.stop] = range(start, start + len(frame))
        tables.append(_tensor(table))
        first += table.size
    return tables, _tensor(slots)


@dataclass(frozen=True)
class Level:
    """A step of the curriculum: how many blocks a scene has, and how many questions on it.

    share: of the batches, beside the other levels reached; the highest one gets it twice
    """

    fewest_blocks: int
    most_blocks: int
    num_questions: int
    share: float


LEVELS = (
    Level(2, 3, 16, 0.7),
    Level(2, 5, 20, 1.2),
    Level(4, 9, 28, 2.0),
    Level(8, 16, 32, 2.0),
    Level(14, 28, 40, 2.0),
    Level(24, 44, 48, 1.5),
    Level(40, 100, 56, 0.8),
    Level(100, 320, 64, 0.05),
)
MAX_FULL_LEVEL = 5  # causal attention over longer contexts would take most of the time


def draw_level(rng: random.Random, top: int) -> Level:
    """One of the levels up to ``top``."""
    shares = [level.share for level in LEVELS[: top + 1]]
    shares[-1] *= 2
    return rng.choices(LEVELS[: top + 1], shares)[0]


@dataclass(frozen=True)
class Mix:
    """What batches are made of at a moment of training.

    random_share: batches of random tokens; full_share: batches in full mode
    """

    level: int = 0
    random_share: float = 0.0
    full_share: float = 0.4
    spread: float = 0.5
    batch_tokens: int = 8192


def make_batch(
    rng: random.Random, tokenizer: Tokenizer, mix: Mix, split: Split = "train"
) -> tuple[Batch, str]:
    """A batch of about ``mix.batch_tokens``, and its name for the log: random, full or block."""
    full = rng.random() < mix.full_share
    level = draw_level(rng, min(mix.level, MAX_FULL_LEVEL if full else len(LEVELS) - 1))
    is_random = rng.random() < mix.random_share
    samples: list[Sample] = []
    num_tokens = 0
    while num_tokens < mix.batch_tokens * 0.85:
        num_blocks = rng.randint(level.fewest_blocks, level.most_blocks)
        if is_random:
            sample = random_sample(rng, num_blocks, level.num_questions, tokenizer.get_vocab_size())
        else:
            scene = make_scene(rng, num_blocks, split)
            questions = make_questions(rng, scene, level.num_questions)
            sample = encode_scene(tokenizer, scene.blocks, questions)
        samples.append(sample)
        num_tokens += sum(map(len, sample.blocks))
        num_tokens += sum(len(event) + len(reply) for event, reply in sample.questions)
    batch = collate(rng, samples, full=full, spread=mix.spread)
    return batch, "random" if is_random else "full" if full else "block"

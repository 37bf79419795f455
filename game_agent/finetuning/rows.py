"""Samples packed into rows of tokens: who stands where, and who attends to whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from game_agent.finetuning.samples import Sample
from game_agent.text.formats import Ints


@dataclass(frozen=True)
class Row:
    """T tokens that pass the model together; samples do not see each other.

    A *frame* attends to itself causally: a block, in full mode the whole context of a sample, and
    each event with its reply. Events see the context of their sample as well.

    tokens, positions: [T] int64; positions are those of the prompt, and begin anew in each sample
    samples, frames:   [T] int64, the sample and the frame of each token, counted over the row
    is_event:          [T] bool, in the frame of an event
    is_shared:         [T] bool, context that the events of the sample see
    label_rows:        [N] int64, rows whose next token is a reply's
    labels:            [N] int64
    label_questions:   [N] int64, the question, counted over the row, that each belongs to
    """

    tokens: Tensor
    positions: Tensor
    samples: Tensor
    frames: Tensor
    is_event: Tensor
    is_shared: Tensor
    label_rows: Tensor
    labels: Tensor
    label_questions: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_questions(self) -> int:
        return int(self.label_questions[-1]) + 1

    def to(self, device: torch.device) -> Row:
        """The same on ``device``."""
        return Row(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def padded(self, multiple: int) -> Row:
        """The row with tokens at its end that see themselves only, for kernels that want tiles."""
        extra = -len(self) % multiple
        if not extra:
            return self
        nobody = torch.full((extra,), -1)
        none = torch.zeros(extra, dtype=torch.int64)
        return replace(
            self,
            tokens=torch.cat([self.tokens, none]),
            positions=torch.cat([self.positions, none]),
            samples=torch.cat([self.samples, nobody]),
            frames=torch.cat([self.frames, nobody]),
            is_event=torch.cat([self.is_event, none.bool()]),
            is_shared=torch.cat([self.is_shared, none.bool()]),
        )


def pack(samples: Sequence[Sample], order: Iterable[int], max_tokens: int) -> Iterator[list[int]]:
    """Numbers of samples in ``order``, in groups of at most ``max_tokens`` tokens each."""
    group: list[int] = []
    room = max_tokens
    for number in order:
        if samples[number].num_tokens > room and group:
            yield group
            group, room = [], max_tokens
        group.append(number)
        room -= samples[number].num_tokens
    if group:
        yield group


def make_row(samples: Sequence[Sample], *, full: bool) -> Row:
    """One row of ``samples``: plain causal attention if ``full``, else each block encoded alone.

    As in the runtime, a sink stands before every block in block mode, right before it whatever its
    place in the prompt, and is no part of the prompt in full mode.
    """
    row = _Rows()
    for sample in samples:
        start = row.add_full(sample) if full else row.add_blocks(sample)
        for event, reply in sample.questions:
            row.add_question(event, reply, start)
        row.num_samples += 1
    return row.whole()


class _Rows:
    """A row as it is gathered."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._tokens: list[Ints] = []
        self._positions: list[np.ndarray] = []
        self._samples: list[int] = []
        self._lengths: list[int] = []
        self._frames: list[int] = []
        self._kinds: list[tuple[bool, bool]] = []
        self._labels: list[Ints] = []
        self._label_rows: list[np.ndarray] = []

    def add_full(self, sample: Sample) -> int:
        """The context as one frame; returns where an event begins."""
        context = np.concatenate(sample.blocks)
        self._add(context, 0, is_shared=True)
        return len(context)

    def add_blocks(self, sample: Sample) -> int:
        """A frame for each block; returns where an event begins."""
        num_sink = 0 if sample.sink is None else len(sample.sink)
        lengths = accumulate(map(len, sample.blocks), initial=num_sink)
        for index, (block, start) in enumerate(zip(sample.blocks, lengths, strict=False)):
            is_continued = False
            if sample.sink is not None:
                # Events see the sink once: the copies are for their blocks alone.
                self._add(sample.sink, start - num_sink, is_shared=index == 0)
                is_continued = True
            self._add(block, start, is_shared=True, is_continued=is_continued)
        return sample.num_context

    def add_question(self, event: Ints, reply: Ints, start: int) -> None:
        first = sum(self._lengths) + len(event) - 1
        self._label_rows.append(np.arange(first, first + len(reply)))
        self._labels.append(reply)
        self._add(np.concatenate([event, reply[:-1]]), start, is_event=True)

    def _add(
        self,
        tokens: Ints,
        start: int,
        *,
        is_event: bool = False,
        is_shared: bool = False,
        is_continued: bool = False,
    ) -> None:
        """Tokens of a new frame, or of the last one if ``is_continued``."""
        frame = self._frames[-1] if self._frames else -1
        self._frames.append(frame + (not is_continued))
        self._tokens.append(tokens)
        self._positions.append(np.arange(start, start + len(tokens)))
        self._samples.append(self.num_samples)
        self._lengths.append(len(tokens))
        self._kinds.append((is_event, is_shared))

    def whole(self) -> Row:
        kinds = np.repeat(np.array(self._kinds), self._lengths, 0)
        replies = [len(labels) for labels in self._labels]
        return Row(
            tokens=_tensor(np.concatenate(self._tokens)),
            positions=_tensor(np.concatenate(self._positions)),
            samples=_tensor(np.repeat(self._samples, self._lengths)),
            frames=_tensor(np.repeat(self._frames, self._lengths)),
            is_event=torch.from_numpy(kinds[:, 0].copy()),
            is_shared=torch.from_numpy(kinds[:, 1].copy()),
            label_rows=_tensor(np.concatenate(self._label_rows)),
            labels=_tensor(np.concatenate(self._labels)),
            label_questions=_tensor(np.repeat(np.arange(len(replies)), replies)),
        )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))

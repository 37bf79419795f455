"""A whole evaluation: models, ways, records; answers on file, in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from game_agent.config import EngineSettings
from game_agent.engine import Completion, Engine
from game_agent.errors import GameAgentError, InvalidInput
from game_agent.evaluation.answers import Answer, AnswerFile
from game_agent.evaluation.asking import Asker, Replying
from game_agent.evaluation.metrics import score
from game_agent.evaluation.prompts import Demonstrations, Prompts, Wording
from game_agent.evaluation.records import OnBadData, Record
from game_agent.evaluation.ways import Way
from game_agent.model.checkpoint import resolve
from game_agent.model.runner import ModelRunner, load_runner
from game_agent.model.spec import load_spec
from game_agent.runtime import bundled_folder

AT_ONCE = 64
Progress = Callable[[str, int, int], None]
"""Hears what is asked (``bundled, block``), how many are answered, of how many."""


@dataclass(frozen=True)
class Model:
    """A checkpoint to evaluate, and its name in the table."""

    name: str
    folder: Path

    @staticmethod
    def parse(text: str | None) -> Model:
        """A folder, a Hub id, or ``NAME=`` and one of these; None is the bundled model."""
        if text is None:
            return Model("bundled", bundled_folder())
        name, equals, rest = text.partition("=")
        if equals and not Path(text).exists():
            return Model(name, bundled_folder() if rest == "bundled" else resolve(rest))
        folder = resolve(text)
        return Model(text if "/" not in text else folder.name, folder)


@dataclass(frozen=True)
class Loading:
    """How models are loaded, as in ``load_runner``."""

    device: str | None = None
    dtype: str | None = None
    prompt_format: str | None = None
    prompt_prefix: str = ""
    kv_memory_bytes: int = EngineSettings.kv_memory_bytes

    def runner(self, model: Model) -> ModelRunner:
        return load_runner(model.folder, **asdict(self))


@dataclass(frozen=True)
class Settings:
    """What an evaluation is, besides its models, ways and records."""

    loading: Loading = field(default_factory=Loading)
    replying: Replying = field(default_factory=Replying)
    wording: Wording = field(default_factory=Wording)
    demonstrations: int = 0
    seed: int = 0
    on_bad_data: OnBadData = "stop"


@dataclass(frozen=True)
class Result:
    """Answers by model, way and record, and a sentence for each record that could not be asked."""

    answers: list[Answer]
    bad: list[str]


def evaluate(
    models: Sequence[Model],
    ways: Sequence[Way],
    records: Sequence[Record],
    settings: Settings,
    *,
    answers: Path | None = None,
    pool: Sequence[Record] | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Result:
    """Ask every model about all ``records`` in every way.

    answers: a file that keeps them; what is in it already is not asked again
    pool:    where demonstrations are taken from; None: from ``records``

    Raises :class:`InvalidInput` for records that cannot be asked (with ``on_bad_data="stop"``) and
    for an answers file of something else, :class:`ModelError` for a folder that cannot be used.
    """
    _check(models)
    demonstrations = Demonstrations(
        records if pool is None else pool, settings.demonstrations, settings.seed
    )
    file = AnswerFile(answers, _head(settings, records))
    wanted: list[Answer] = []
    bad: list[str] = []
    try:
        for model in models:
            with _asking(model, settings, records, demonstrations, file) as task:
                for way in ways:
                    bad += task.run(way, records, progress)
                    wanted += task.answers(way, records)
            # Before the next one is loaded: two may not fit into memory together.
            del task
    finally:
        file.close()
    return Result(wanted, bad)


@contextmanager
def _asking(
    model: Model,
    settings: Settings,
    records: Sequence[Record],
    demonstrations: Demonstrations,
    file: AnswerFile,
) -> Iterator[_Task]:
    """The model, loaded."""
    runner = settings.loading.runner(model)
    with closing(Engine(runner, EngineSettings(refresh_when_idle=False))) as engine:
        prompts = Prompts(runner.encoder, settings.wording, demonstrations)
        asker = Asker(engine, prompts, settings.replying, records)
        yield _Task(model.name, runner.digest.hex()[:32], asker, file, settings)


def _check(models: Sequence[Model]) -> None:
    """What can be known to be wrong before hours are spent on the first model."""
    names = [model.name for model in models]
    if len({*names}) < len(names):
        raise InvalidInput(
            f"two models have the same name ({', '.join(names)}); write NAME=FOLDER to name one"
        )
    for model in models:
        load_spec(model.folder)


def _head(settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
    """What answers depend on besides models and ways, in plain values, records by a digest."""
    loading = asdict(settings.loading)
    del loading["kv_memory_bytes"]
    text = json.dumps([asdict(record) for record in records])
    return {
        **loading,
        **asdict(settings.replying),
        **asdict(settings.wording),
        "demonstrations": settings.demonstrations,
        "seed": settings.seed,
        "records": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
    }


@dataclass(frozen=True)
class _Task:
    """One model: what it is asked and has answered."""

    model: str
    digest: str
    asker: Asker
    file: AnswerFile
    settings: Settings

    def run(self, way: Way, records: Sequence[Record], progress: Progress) -> list[str]:
        """Ask what is not on file yet; sentences about what could not be asked."""
        missing = [r for r in records if (self.digest, way.name, r.id) not in self.file.answers]
        num_done = len(records) - len(missing)
        what, bad = f"{self.model}, {way.name}", []
        progress(what, num_done, len(records))
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            for record, reply in zip(some, self.asker.ask(some, way), strict=True):
                if isinstance(reply, GameAgentError):
                    bad.append(self._bad(record, reply))
                else:
                    self.file.add([self._answer(way, record, reply)])
                num_done += 1
                progress(what, num_done, len(records))
        return bad

    def answers(self, way: Way, records: Sequence[Record]) -> list[Answer]:
        """What is on file, under the model's name of today."""
        found = [self.file.answers.get((self.digest, way.name, record.id)) for record in records]
        return [replace(answer, model=self.model) for answer in found if answer is not None]

    def _bad(self, record: Record, error: GameAgentError) -> str:
        sentence = f"record {record.id}: {error.message}"
        if self.settings.on_bad_data == "stop":
            raise InvalidInput(f"{sentence}. To leave such records out: --on-bad-data skip")
        return sentence

    def _answer(self, way: Way, record: Record, reply: Completion) -> Answer:
        return Answer(
            self.model,
            self.digest,
            way.name,
            record.id,
            record.type,
            reply.text,
            reply.finish_reason,
            reply.usage.context_tokens,
            score(reply.text, record.answers),
        )

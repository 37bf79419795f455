"""``evaluate``: how well models answer, in every mode; ``convert``: data sets for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from game_agent.commands.options import Device, Dtype, Format, Memory, Prefix, Threads, use_threads
from game_agent.config import GIB
from game_agent.errors import InvalidInput
from game_agent.evaluation.asking import Replying
from game_agent.evaluation.convert import SOURCES, Options, convert, write_records
from game_agent.evaluation.plot import draw, figure_module
from game_agent.evaluation.prompts import PAPER, Wording
from game_agent.evaluation.records import Record, check_on_bad_data, read_records
from game_agent.evaluation.report import Report, check_metric, markdown
from game_agent.evaluation.run import Loading, Model, Settings, evaluate
from game_agent.evaluation.run import Progress as Hear
from game_agent.evaluation.scenes import SIZES, scene_records
from game_agent.evaluation.ways import WAYS, parse_ways


def run_evaluation(
    models: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Folders, Hub ids or NAME=FOLDER; default: the bundled model."),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSONL of records: blocks, question, answers; see docs/evaluation.md."),
    ] = None,
    scenes: Annotated[
        bool, typer.Option("--scenes", help="Records from the bundled model's scenes instead.")
    ] = False,
    modes: Annotated[str, typer.Option(help=f"Of {', '.join(WAYS)}; or all.")] = "block,full",
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Ask the first so many records only.", min=1),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a reply.", min=1)] = 64,
    stop: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A text that ends a reply; may be given several times."),
    ] = None,
    paper_prompt: Annotated[
        bool, typer.Option("--paper-prompt", help="The wording of the paper's models.")
    ] = False,
    instruction: Annotated[str, typer.Option(help="A block before all others.")] = "",
    demonstrations: Annotated[
        int, typer.Option(help="Solved records shown before each, as blocks.", min=0)
    ] = 0,
    demonstrations_data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where they come from; default: the records themselves."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of demonstrations and scenes.")] = 0,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="substring, f1 or exact: what types of question are compared in."),
    ] = None,
    answers: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSONL that keeps the replies; a run that was interrupted goes on."),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Write the tables here (.md).")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option(help="Draw them here (.png).")] = None,  # noqa: UP045
    on_bad_data: Annotated[str, typer.Option(help="stop or skip.")] = "stop",
    scene_blocks: Annotated[
        str, typer.Option(help="With --scenes: about how many blocks scenes have.")
    ] = ",".join(map(str, SIZES)),
    scene_count: Annotated[int, typer.Option(help="Scenes of each size.", min=1)] = 20,
    scene_questions: Annotated[int, typer.Option(help="Questions on each.", min=1)] = 16,
    repair_tokens: Annotated[
        int, typer.Option(help="Of contextual mode.", min=0)
    ] = Replying.repair_tokens,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = 0,
    kv_memory: Memory = 1.0,
    prompt_format: Format = None,
    prompt_prefix: Prefix = "",
) -> None:
    """Ask models about records in several modes; tables of how often they are right."""
    use_threads(threads)
    check_metric(metric)
    if plot is not None:
        figure_module()
    console = Console(stderr=True)
    settings = Settings(
        Loading(device, dtype, prompt_format, prompt_prefix, int(kv_memory * GIB)),
        Replying(max_tokens, tuple(stop or ()), repair_tokens),
        _wording(paper_prompt, instruction),
        demonstrations,
        seed,
        check_on_bad_data(on_bad_data),
    )
    if scenes:
        _check_scenes(data, settings)
        sizes = _sizes(scene_blocks)
        records = scene_records(
            sizes, num_scenes=scene_count, num_questions=scene_questions, seed=seed
        )
    elif data is None:
        raise InvalidInput("give records: --data FILE or --scenes")
    else:
        records = _read(data, settings, console, limit)
    records = records[:limit]
    pool = _read(demonstrations_data, settings, console) if demonstrations_data else None
    chosen = [Model.parse(text) for text in models or ()] or [Model.parse(None)]
    ways = parse_ways(modes)
    with _progress(console) as hear:
        result = evaluate(
            chosen, ways, records, settings, answers=answers, pool=pool, progress=hear
        )
    _tell(console, "was not asked", result.bad)
    source = "scenes of the test split" if data is None else data.name
    report = Report.of(result.answers, records, metric or ("exact" if scenes else "substring"))
    _show(report, _conditions(source, len(records), settings), out, plot)


def convert_data(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(SOURCES)}.")],
    file: Annotated[Path, typer.Argument(help="A file as published; .gz is fine.")],
    out: Annotated[Path, typer.Argument(help="Where the records go (.jsonl).")],
    passages: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Only the first so many of each question.", min=1),
    ] = None,
    evidence: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="TriviaQA's folder evidence, or NarrativeQA's summaries.csv."),
    ] = None,
    words: Annotated[int, typer.Option(help="Of a document of TriviaQA.", min=1)] = Options.words,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of NarrativeQA: train, valid or test."),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(help="At most so many records.", min=1)] = None,  # noqa: UP045
    on_bad_data: Annotated[str, typer.Option(help="stop or skip.")] = "stop",
) -> None:
    """Bring a published data set into the form that evaluate reads."""
    found = convert(
        name,
        file,
        Options(passages, evidence, words, split),
        on_bad_data=check_on_bad_data(on_bad_data),
        limit=limit,
    )
    _tell(Console(stderr=True), "was left out", found.bad)
    write_records(found.records, out)
    typer.echo(f"{out}: {len(found.records)} records")


def _wording(paper_prompt: bool, instruction: str) -> Wording:
    wording = PAPER if paper_prompt else Wording()
    return replace(wording, instruction=instruction) if instruction else wording


def _check_scenes(data: Path | None, settings: Settings) -> None:
    if data is not None:
        raise InvalidInput("--data and --scenes are two sources of records; give one")
    if settings.demonstrations or settings.wording != Wording():
        raise InvalidInput(
            "a scene's prompt begins with its character; demonstrations, instructions and other "
            "wordings are for --data"
        )


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise InvalidInput(f"--scene-blocks must be numbers as 4,8,16, not {text!r}") from None


def _read(
    path: Path, settings: Settings, console: Console, limit: int | None = None
) -> list[Record]:
    found = read_records(path, on_bad_data=settings.on_bad_data, limit=limit)
    _tell(console, "was left out", found.bad)
    return found.records


def _tell(console: Console, what: str, bad: Sequence[str]) -> None:
    """Say how many records are missing, and why the first few are."""
    for sentence in bad[:5]:
        console.print(f"{what}: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if len(bad) > 5:
        console.print(f"and {len(bad) - 5} more")


def _show(report: Report, conditions: str, out: Path | None, plot: Path | None) -> None:
    """The tables, on the terminal and where they are wanted; the picture last."""
    text = markdown(report, "Evaluation", [conditions])
    typer.echo(text)
    try:
        if out is not None:
            picture = f"\n![means and types]({plot.name})\n" if plot else ""
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text + picture, "utf-8")
        if plot is not None:
            draw(report, plot)
    except OSError as error:
        raise InvalidInput(f"{error.filename} cannot be written: {error.strerror}") from None


@contextmanager
def _progress(console: Console) -> Iterator[Hear]:
    """A bar for each model and way."""
    with Progress(console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def hear(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.update(tasks[what], completed=done)

        yield hear


def _conditions(source: str, num_records: int, settings: Settings) -> str:
    shown = f", {settings.demonstrations} demonstrations" if settings.demonstrations else ""
    return (
        f"Records: {source}, {num_records} of them{shown}. Replies of at most "
        f"{settings.replying.max_tokens} tokens; prompt format: "
        f"{settings.loading.prompt_format or 'what fits the model'}; seed {settings.seed}; "
        f"contextual mode repairs {settings.replying.repair_tokens} tokens."
    )

"""The Block-Attention paper's ablation on the bundled model and its twins: replies right, by skill.

    python bench/ablation.py [--model FOLDER …] [--twin FOLDER …] [--finetuned FOLDER …]
        [--control FOLDER …] [--out FILE.md]

--model:     trained with both masks; default: the bundled model
--twin:      of the same training with plain causal attention only, which stands for a stock model:
             game-agent train-bundled --causal-only --out FOLDER
--finetuned: the twin after block fine-tuning: game-agent finetune
--control:   the twin after as many steps with plain causal attention: finetune --masks full
--finetuned-from-twin: as in the paper, the models are the twin after block fine-tuning

Several folders are trainings that differ in their seed (``--seed``), in the same order for each.
`bench/trainings.py` makes them all. What counts is *exact*, declared before any run: the whole
reply is right. Scenes are of the test split, of several seeds. With --out a plot is drawn beside
it. With --answers a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from game_agent.evaluation.answers import Answer
from game_agent.evaluation.asking import Replying
from game_agent.evaluation.plot import draw
from game_agent.evaluation.records import Record
from game_agent.evaluation.report import Report, by_type, markdown
from game_agent.evaluation.run import Loading, Model, Settings, evaluate
from game_agent.evaluation.scenes import scene_records
from game_agent.evaluation.ways import parse_ways
from game_agent.runtime import bundled_folder

WAYS = {
    "block-ft": "block,full,contextual,unmoved,slots,parallel",
    "causal-only": "full,block,contextual,unmoved,slots,parallel",
    "fine-tuned": "block,full",
    "control": "block,full",
}
PARTS = (
    ("number of blocks", "{:3} blocks", 2),
    ("training", "training {}", 0),
    ("seed of the scenes", "seed {}", 1),
)
SETTINGS = Settings(Loading(kv_memory_bytes=2**29), Replying(max_tokens=48))


Named = TypeVar("Named", Record, Answer)


def of_training(training: int, items: Sequence[Named]) -> list[Named]:
    """The same, questions or answers, under ids of their own for one of several trainings."""
    return [replace(item, id=f"{training}-{item.id}") for item in items]


def make_records(
    seeds: Sequence[int], sizes: Sequence[int], scenes: int, asked: int
) -> list[Record]:
    """Scenes of every seed and size."""
    return [
        record
        for seed in seeds
        for record in scene_records(sizes, num_scenes=scenes, num_questions=asked, seed=seed)
    ]


def ask(
    trained: Mapping[str, Sequence[Path]], records: Sequence[Record], answers: Path | None
) -> list[Answer]:
    """Every model, of every training, in its ways. ``trained``: folders by name."""
    given: list[Answer] = []
    with Progress(console=Console(stderr=True)) as bars:
        models = [
            (k, Model(name, folder)) for name, fs in trained.items() for k, folder in enumerate(fs)
        ]
        for training, model in models:
            task = bars.add_task(f"{model.name} {training}")

            def hear(what: str, done: int, of: int, task: object = task) -> None:
                bars.update(task, description=what, completed=done, total=of)  # type: ignore[arg-type]

            ways = parse_ways(WAYS[model.name])
            # All trainings share the file of answers, so they are asked the very same records.
            found = evaluate([model], ways, records, SETTINGS, answers=answers, progress=hear)
            given += of_training(training, found.answers)
    return given


def retyped(answers: Sequence[Answer], title: str, part: int) -> list[Answer]:
    """The same with a part of the id as type; ids begin with ``training-seed-size-``."""
    return [replace(a, type=title.format(int(a.id.split("-")[part]))) for a in answers]


def report(answers: Sequence[Answer], records: Sequence[Record], note: str) -> str:
    """Markdown: means, then by skill, by number of blocks, by training, by seed of the scenes."""
    whole = Report.of(answers, records, "exact")
    text = markdown(whole, "Ablation of block mode", [note])
    for title, shown, part in PARTS:
        lines = by_type(Report.of(retyped(answers, shown, part), records, "exact"))
        text += "\n".join(["", f"## By {title}", "", *lines, ""])
    return text


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, nargs="+", default=[])
    parser.add_argument("--twin", type=Path, nargs="+", default=[])
    parser.add_argument("--finetuned", type=Path, nargs="+", default=[])
    parser.add_argument("--control", type=Path, nargs="+", default=[])
    parser.add_argument("--finetuned-from-twin", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--sizes", default="4,8,16,32")
    parser.add_argument("--scenes", type=int, default=10, help="of each seed and size")
    parser.add_argument("--questions", type=int, default=16, help="on each scene")
    parser.add_argument("--note", default="", help="what a reader must know of these models")
    return parser.parse_args()


def folders(options: argparse.Namespace) -> dict[str, list[Path]]:
    """Those that are there, by the name of the model."""
    named = {
        "block-ft": options.model,
        "causal-only": options.twin,
        "fine-tuned": options.finetuned,
        "control": options.control,
    }
    there = {name: [each for each in given if each.exists()] for name, given in named.items()}
    there["block-ft"] = there["block-ft"] or [bundled_folder()]
    return {name: found for name, found in there.items() if found}


def conditions(
    options: argparse.Namespace, trained: Mapping[str, Sequence[Path]], num_asked: int
) -> str:
    """What was compared, and how to do it again."""
    counts = ", ".join(f"{len(found)} of {name}" for name, found in trained.items())
    left_out = [name for name in WAYS if name not in trained]
    if options.finetuned_from_twin:
        how = (
            "*causal-only* was trained with plain causal attention; *block-ft* is that after block "
            "fine-tuning, with both masks, *control* after as many steps of the same data with "
            "plain causal attention, each with several seeds of data and order"
        )
    else:
        how = (
            "*block-ft* was trained with both masks, *causal-only* likewise but with plain causal "
            "attention only, *fine-tuned* is that after block fine-tuning, *control* after as many "
            "steps of the same data and plain causal attention"
        )
    return (
        f"{num_asked} questions on {options.scenes} scenes of the test split for each of the "
        f"sizes {options.sizes} and the seeds {options.seeds}. {how}. "
        f"Trainings: {counts}; each is asked everything. Intervals tell how scenes differ; how "
        "trainings do is in the table by training. To make it anew: `python bench/trainings.py "
        "--out FOLDER`, which ends with the command."
        + (f" {options.note}" if options.note else "")
        + (f" Not there: {', '.join(left_out)}." if left_out else "")
    )


def main() -> None:
    options = read_options()
    trained = folders(options)
    seeds, sizes = ([int(n) for n in each.split(",")] for each in (options.seeds, options.sizes))
    records = make_records(seeds, sizes, options.scenes, options.questions)
    answers = ask(trained, records, options.answers)
    note = conditions(options, trained, len(records))
    num_trainings = max(map(len, trained.values()))
    records = [each for k in range(num_trainings) for each in of_training(k, records)]
    text = report(answers, records, note)
    print(text)
    if options.out:
        plot = options.out.with_suffix(".png")
        options.out.write_text(f"{text}\n![means and skills]({plot.name})\n", "utf-8")
        draw(Report.of(answers, records, "exact"), plot)


if __name__ == "__main__":
    main()

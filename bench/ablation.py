"""The Block-Attention paper's ablation on the bundled model and its twins: replies right, by skill.

    python bench/ablation.py [--model FOLDER] [--twin FOLDER] [--finetuned FOLDER] [--out FILE.md]

--model:     trained with both masks; default: the bundled model
--twin:      of the same training with plain causal attention only, which stands for a stock model:
             game-agent train-bundled --causal-only --out FOLDER
--finetuned: the twin after block fine-tuning: game-agent finetune

What counts is *exact*, declared before any run: the whole reply is right. Scenes are of the test
split, of several seeds. With --out a plot is drawn beside it. With --answers a run that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
}
SETTINGS = Settings(Loading(kv_memory_bytes=2**29), Replying(max_tokens=48))


def make_records(
    seeds: Sequence[int], sizes: Sequence[int], scenes: int, asked: int
) -> list[Record]:
    """Scenes of every seed and size."""
    return [
        record
        for seed in seeds
        for record in scene_records(sizes, num_scenes=scenes, num_questions=asked, seed=seed)
    ]


def ask(models: Sequence[Model], records: Sequence[Record], answers: Path | None) -> list[Answer]:
    """Every model in its ways."""
    given: list[Answer] = []
    with Progress(console=Console(stderr=True)) as bars:
        for model in models:
            task = bars.add_task(model.name)

            def hear(what: str, done: int, of: int, task: object = task) -> None:
                bars.update(task, description=what, completed=done, total=of)  # type: ignore[arg-type]

            ways = parse_ways(WAYS[model.name])
            given += evaluate(
                [model], ways, records, SETTINGS, answers=answers, progress=hear
            ).answers
    return given


def sized(answers: Sequence[Answer]) -> list[Answer]:
    """The same with the size of the scene as type; ids begin with ``seed-size-``."""
    return [replace(a, type=f"{int(a.id.split('-')[1]):3} blocks") for a in answers]


def seeded(answers: Sequence[Answer]) -> list[Answer]:
    return [replace(a, type=f"seed {a.id.split('-')[0]}") for a in answers]


def report(answers: Sequence[Answer], records: Sequence[Record], note: str) -> str:
    """Markdown: means, then by skill, by number of blocks, by seed."""
    whole = Report.of(answers, records, "exact")
    text = markdown(whole, "Ablation of block mode", [note])
    for title, renamed in (("number of blocks", sized(answers)), ("seed", seeded(answers))):
        lines = by_type(Report.of(renamed, records, "exact"))
        text += "\n".join(["", f"## By {title}", "", *lines, ""])
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, default=bundled_folder())
    parser.add_argument("--twin", type=Path)
    parser.add_argument("--finetuned", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--sizes", default="4,8,16,32")
    parser.add_argument("--scenes", type=int, default=10, help="of each seed and size")
    parser.add_argument("--questions", type=int, default=16, help="on each scene")
    parser.add_argument("--note", default="", help="what a reader must know of these models")
    options = parser.parse_args()
    named = {
        "block-ft": options.model,
        "causal-only": options.twin,
        "fine-tuned": options.finetuned,
    }
    models = [Model(name, folder) for name, folder in named.items() if folder and folder.exists()]
    seeds, sizes = ([int(n) for n in each.split(",")] for each in (options.seeds, options.sizes))
    records = make_records(seeds, sizes, options.scenes, options.questions)
    answers = ask(models, records, options.answers)
    left_out = [name for name in named if name not in {model.name for model in models}]
    note = (
        f"{len(records)} questions on {options.scenes} scenes of the test split for each of the "
        f"sizes {options.sizes} and the seeds {options.seeds}. *block-ft* was trained with both "
        "masks, *causal-only* likewise but with plain causal attention only, *fine-tuned* is that "
        "after block fine-tuning. To make it anew: `python bench/ablation.py --out FILE.md`."
        + (f" {options.note}" if options.note else "")
        + (f" Not there: {', '.join(left_out)}." if left_out else "")
    )
    text = report(answers, records, note)
    print(text)
    if options.out:
        plot = options.out.with_suffix(".png")
        draw(Report.of(answers, records, "exact"), plot)
        options.out.write_text(f"{text}\n![means and skills]({plot.name})\n", "utf-8")


if __name__ == "__main__":
    main()

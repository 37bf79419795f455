"""Fine-tuning data from the bundled model's own scenes, as `game-agent finetune` reads it.

    python bench/twin.py --out FOLDER [--records 2500] [--blocks 2-12] [--questions 12]

Writes ``scenes.jsonl`` (names of the training split) and ``held_out.jsonl`` (names of the test
split). With them a twin that was trained causally only becomes a block model:

    game-agent train-bundled --preset cpu --causal-only --out TWIN
    game-agent finetune TWIN --data FOLDER/scenes.jsonl --held-out FOLDER/held_out.jsonl \\
        --out TWIN-block --steps 800 --rows 1 --max-tokens 768 --learning-rate 1e-3 \\
        --on-bad-data skip --cpu
    game-agent evaluate before=TWIN after=TWIN-block --scenes --modes block,full

A step of that size takes 0.6 s of one core (0.5 s with ``--dtype bfloat16``), 800 steps 8 minutes.
Scenes that are longer than the limit are left out. One record is a scene with several questions, so
that its blocks are computed once for all of them.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from game_agent.training.names import Split
from game_agent.training.scenes import make_questions, make_scene


def record(
    rng: random.Random, num_blocks: int, num_questions: int, split: Split
) -> dict[str, object]:
    """A scene as one record."""
    scene = make_scene(rng, num_blocks, split)
    asked = make_questions(rng, scene, num_questions)
    return {
        "blocks": scene.blocks,
        "questions": [{"question": q.event, "answer": q.reply} for q in asked],
    }


def write(path: Path, seed: int, num_records: int, sizes: range, num_questions: int) -> None:
    """``num_records`` records of ``sizes`` blocks, about; the same seed gives the same."""
    split: Split = "test" if path.stem == "held_out" else "train"
    rng = random.Random(f"{seed} {split}")
    lines = (record(rng, rng.choice(sizes), num_questions, split) for _ in range(num_records))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--records", type=int, default=2500)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--blocks", default="2-12")
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fewest, most = map(int, options.blocks.split("-"))
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = range(fewest, most + 1)
    for name, num_records in (("scenes", options.records), ("held_out", options.held_out)):
        path = options.out / f"{name}.jsonl"
        write(path, options.seed, num_records, sizes, options.questions)
        print(f"{path}: {num_records} records")


if __name__ == "__main__":
    main()

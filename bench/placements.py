"""What it is worth to place blocks as they follow on each other: replies right, beside baselines.

    python bench/placements.py [--model FOLDER] [--out FILE.md]

The bundled model answers questions on scenes of the test split in full mode, in block mode, and in
block mode with the blocks placed as the paper's baselines do (``engine/placement.py``).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from game_agent.engine import Engine
from game_agent.engine.placement import PLACEMENTS
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder
from game_agent.training.batches import Sample, encode_scene
from game_agent.training.export import load_exported
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.tokens import plain_copy


def share_right(engine: Engine, samples: list[Sample], mode: str, placement: str) -> float:
    """Share of replies of which every token is the likeliest after the right ones before it."""
    num_right = num_asked = 0
    for sample in samples:
        for event, reply in sample.questions:
            logits = engine.logits(
                sample.blocks,
                [*event, *reply[:-1]],
                mode,  # type: ignore[arg-type]
                placement=placement,  # type: ignore[arg-type]
            )
            num_right += logits[len(event) - 1 :].argmax(-1).tolist() == reply
            num_asked += 1
    return num_right / num_asked


def table(
    model: Path, sizes: tuple[int, ...], num_scenes: int, num_questions: int
) -> Iterator[str]:
    """Lines of Markdown."""
    engine = Engine(load_runner(model, kv_memory_bytes=2**28))
    tokenizer = plain_copy(load_exported(model)[1])
    ways = [("full", "prompt"), *(("block", placement) for placement in PLACEMENTS)]
    yield "# Placements of blocks\n"
    yield (
        f"Model: {model.name}. Percent of replies right in every token, {num_scenes} scenes of the "
        f"test split per row, {num_questions} questions on each. *prompt* is what block mode does; "
        "the others are baselines, for which the model was not trained. The bundled model was "
        "trained with random gaps between blocks and finds facts by their words, so where blocks "
        "stand hardly matters to it; language models lose more (arXiv 2409.15355). To make it "
        "anew: `python bench/placements.py --out FILE.md`.\n"
    )
    yield "| blocks | full | " + " | ".join(PLACEMENTS) + " |"
    yield "|---" * (len(ways) + 1) + "|"
    for size in sizes:
        rng = random.Random(size)
        scenes = [make_scene(rng, size, "test") for _ in range(num_scenes)]
        samples = [
            encode_scene(tokenizer, scene.blocks, make_questions(rng, scene, num_questions))
            for scene in scenes
        ]
        shares = (share_right(engine, samples, mode, placement) for mode, placement in ways)
        yield f"| {size} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |"
    engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, default=bundled_folder())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--sizes", default="4,8,16,32")
    options = parser.parse_args()
    sizes = tuple(int(size) for size in options.sizes.split(","))
    text = "\n".join(table(options.model, sizes, options.scenes, options.questions)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

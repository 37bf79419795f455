"""Records from the bundled model's own scenes: game worlds made by rule, with questions on them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from game_agent.errors import InvalidInput
from game_agent.evaluation.records import Record
from game_agent.training.scene import Question
from game_agent.training.scenes import make_questions, make_scene

SIZES = (4, 8, 16, 32)


def scene_records(
    sizes: Sequence[int] = SIZES,
    *,
    num_scenes: int = 20,
    num_questions: int = 16,
    seed: int = 0,
    held_out_wording: bool = False,
) -> list[Record]:
    """Records on ``num_scenes`` scenes of each of ``sizes`` (blocks, about), from the test split.

    The blocks are those of training, the character first; the names in them training never saw.
    ``type`` is the skill that a question takes, or else its kind. Same seed, same records.

    Raises :class:`InvalidInput` for a size below 2 or a number below 1.
    """
    if min(sizes, default=0) < 2 or num_scenes < 1 or num_questions < 1:
        raise InvalidInput("scenes need 2 blocks, there must be one of each, and one question")
    records = []
    for size in sizes:
        for number in range(num_scenes):
            rng = random.Random(f"{seed}/{size}/{number}")
            scene = make_scene(rng, size, "test")
            asked = make_questions(rng, scene, num_questions, held_out_wording=held_out_wording)
            records += [
                _record(f"{seed}-{size}-{number}-{index}", scene.blocks, question)
                for index, question in enumerate(asked)
            ]
    return records


def _record(name: str, blocks: tuple[str, ...], question: Question) -> Record:
    kind = question.skill or question.kind
    return Record(name, blocks, question.event, (question.reply,), kind.replace("_", " "))

"""The model card: what the bundled model is, and how often it is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from game_agent.training.evaluate import Score, Setting
from game_agent.training.network import Network
from game_agent.training.scene import SKILLS

TEXT = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [block-attention, game]
---

# The bundled model

A Llama of {millions:.1f} million parameters ({num_layers} layers, hidden size {hidden_size},
vocabulary {vocab_size}) that reads facts about a game world in blocks and answers questions about
them in words. It is here so that game-agent runs, shows itself and tests itself without a download.
It is no chat model: it knows nothing but what stands in its prompt, in the form below, and it
answers only the kinds of question in the tables.

{masks}

## Prompt

- Each block is `<|block|>` and its text. The first is the character: `You are Mira. Mira runs the
  inn and speaks gruffly.` Others are parts of the world state as game-agent cuts them
  (`things: old key / in: chest drawer; apple / on: table.`), lore sentences, earlier turns
  (`Player: My name is Bran.\\nMira: I see.`) and what was seen (`Event: Bran found the old key.`).
- Then `<|event|>`, `Player: Where is the old key?`, `<|reply|>`; the reply ends with `<|end|>`.
- Positions run through the whole prompt, up to {max_positions}.

## Training

{beginning}, on made-up scenes only (`game_agent/training/scenes.py`), for {minutes:.0f} minutes of
wall-clock time: {num_tokens:.1f} million tokens in {num_steps} steps of Muon and AdamW, bfloat16
matrices, {trained}. No text from elsewhere was used. At first the first layers had heads that look
back and copy (`game_agent/training/seeding.py`), as such heads would take most of a short training
to form. To make it anew:

    game-agent train-bundled --preset {preset}{options} --tokens {tokens} --out FOLDER

## Accuracy

Share of replies that are right in every token under greedy decoding, in percent, on scenes of the
test split: the names in it were kept out of training (except single plain nouns such as "key"), and
in the columns "other words" so were the wordings of the questions. "8 block" is a scene of about 8
blocks with the block mask, "8 full" the same with causal attention and the same questions. In
brackets: 95 % intervals (bootstrap over scenes, as questions on one scene are right or wrong
together). Measured in float32, with a fixed seed, by

    python -m game_agent.training.evaluate FOLDER

{skills}

How many were asked, and in brackets how many of them have a reply of their own: some questions on
one scene have the same reply, and say little more together than one of them does.

{skill_counts}

What a skill takes: *one fact* stands in one block, a *list* as well, with several names in the
reply; for *two facts* one block names what another tells about; *order* asks for the first or last
of several events; a *reference* ("it", "the same place") is resolved in another block; what is
*absent* is to be said not to be known; an *action* is JSON out of those offered; a *choice* is one
of the options in the question; *talk* needs no fact of the world.

{kinds}

{kind_counts}

## Limits

English only. It answers the kinds of question above and no others, and leans on the wordings that
it was trained with: see the last columns. Counting, comparing and arithmetic are beyond it, numbers
above 999 are split, and it may mix up names that share words.
"""

BOTH_MASKS = """\
It is trained for Block-Attention (arXiv 2409.15355): each block is encoded alone, the event attends
to all of them. Plain causal attention works as well."""
CAUSAL_ONLY = """\
It is trained with plain causal attention only, as stock models are, and never saw a block that was
encoded alone: it is here to be compared with, not to be used in block mode."""


def model_card(
    network: Network,
    scores: Mapping[Setting, Score],
    *,
    preset: str,
    minutes: float,
    num_steps: int,
    num_tokens: int,
    causal_only: bool = False,
    seed: int = 0,
    has_start: bool = False,
) -> str:
    """The card's text in Markdown. ``has_start``: it began with the result of another training."""
    size = network.size
    usual = {setting: score for setting, score in scores.items() if setting.is_usual}
    options = (" --causal-only" if causal_only else "") + (f" --seed {seed}" if seed else "")
    options += " --start EARLIER" if has_start else ""
    return TEXT.format(
        millions=sum(weight.numel() for weight in network.parameters()) / 1e6,
        num_layers=size.num_layers,
        hidden_size=size.hidden_size,
        vocab_size=size.vocab_size,
        max_positions=size.max_positions,
        beginning="From the result of an earlier training" if has_start else "From nothing",
        masks=CAUSAL_ONLY if causal_only else BOTH_MASKS,
        trained="causally" if causal_only else "with the block mask and causally",
        options=options,
        preset=preset,
        minutes=minutes,
        num_steps=num_steps,
        num_tokens=num_tokens / 1e6,
        tokens=round(num_tokens, -6) or num_tokens,
        skills=accuracies("skill", by_skill(), scores),
        skill_counts=counts("skill", by_skill(), scores),
        kinds=accuracies("kind", by_kind(usual), usual),
        kind_counts=counts("kind", by_kind(usual), usual),
    )


Parts = Mapping[str, Callable[[Score], Score]]
"""Rows of a table: their names, and the part of a column's score that each shows."""


def by_skill() -> Parts:
    """A row for all questions, and one for each skill."""
    return {"**all**": Score.part} | {skill: partial(Score.part, skill=skill) for skill in SKILLS}


def by_kind(scores: Mapping[Setting, Score]) -> Parts:
    """A row for each kind of question that was asked."""
    kinds = sorted({each.label.kind for score in scores.values() for each in score.outcomes})
    return {kind.replace("_", " "): partial(Score.part, kind=kind) for kind in kinds}


def accuracies(title: str, parts: Parts, scores: Mapping[Setting, Score]) -> str:
    """A Markdown table in percent, with intervals; a column for each setting."""
    columns = {setting.title: score for setting, score in scores.items()}
    return _table(title, parts, columns, _accuracy)


def counts(title: str, parts: Parts, scores: Mapping[Setting, Score]) -> str:
    """A Markdown table of what was asked; a column for all settings with the same questions."""
    return _table(title, parts, {s.questions: score for s, score in scores.items()}, _count)


def _table(
    title: str, parts: Parts, columns: Mapping[str, Score], cell: Callable[[Score], str]
) -> str:
    rows = [[title, *columns], ["---"] * (1 + len(columns))]
    for name, part in parts.items():
        rows.append([name, *(cell(part(score)) for score in columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _accuracy(score: Score) -> str:
    found = score.interval
    return found.text(".0f") if found else "–"


def _count(score: Score) -> str:
    return f"{score.num_asked} ({score.num_distinct})" if score.num_asked else "–"

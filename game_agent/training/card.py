"""The model card: what the bundled model is, and how often it is right."""

from __future__ import annotations

from game_agent.training.evaluate import Score, Setting
from game_agent.training.network import Network

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
answers only the kinds of question in the table.

{masks}

## Prompt

- Each block is `<|block|>` and its text. The first is the character: `You are Mira. Mira runs the
  inn and speaks gruffly.` Others are parts of the world state as game-agent cuts them
  (`things: old key / in: chest drawer; apple / on: table.`), lore sentences, earlier turns
  (`Player: My name is Bran.\\nMira: I see.`) and what was seen (`Event: Bran found the old key.`).
- Then `<|event|>`, `Player: Where is the old key?`, `<|reply|>`; the reply ends with `<|end|>`.
- Positions run through the whole prompt, up to {max_positions}.

## Training

From nothing, on made-up scenes only (`game_agent/training/scenes.py`), for {minutes:.0f} minutes of
wall-clock time: {num_tokens:.1f} million tokens in {num_steps} steps of Muon and AdamW, bfloat16
matrices, {trained}. No text from elsewhere was used. To make it anew:

    game-agent train-bundled --preset {preset}{option} --out FOLDER

## Accuracy

Share of replies that are right in every token under greedy decoding, in percent, on scenes of the
test split: the names in it were kept out of training (except single plain nouns such as "key"), and
in the columns "other words" so were the wordings of the questions. "8 block" is a scene of about 8
blocks with the block mask, "8 full" the same with causal attention; in brackets, how many were
asked. Measured in float32, with a fixed seed, by

    python -m game_agent.training.evaluate FOLDER

{table}

## Limits

English only. It leans on the wordings that it was trained with: see the last columns. What lies in
or on something, which way a room is and other questions that take several facts are its weakest
("way" looks better in large houses because most rooms there are out of reach, and "I do not know
the way" is right). Counting, comparing and arithmetic are beyond it, numbers above 999 are split,
and it may mix up names that share words.
"""

BOTH_MASKS = """\
It is trained for Block-Attention (arXiv 2409.15355): each block is encoded alone, the event attends
to all of them. Plain causal attention works as well."""
CAUSAL_ONLY = """\
It is trained with plain causal attention only, as stock models are, and never saw a block that was
encoded alone: it is here to be compared with, not to be used in block mode."""


def model_card(
    network: Network,
    scores: dict[Setting, Score],
    *,
    preset: str,
    minutes: float,
    num_steps: int,
    num_tokens: int,
    causal_only: bool = False,
) -> str:
    """The card's text in Markdown."""
    size = network.size
    return TEXT.format(
        millions=sum(weight.numel() for weight in network.parameters()) / 1e6,
        num_layers=size.num_layers,
        hidden_size=size.hidden_size,
        vocab_size=size.vocab_size,
        max_positions=size.max_positions,
        masks=CAUSAL_ONLY if causal_only else BOTH_MASKS,
        trained="causally" if causal_only else "with the block mask and causally",
        option=" --causal-only" if causal_only else "",
        preset=preset,
        minutes=minutes,
        num_steps=num_steps,
        num_tokens=num_tokens / 1e6,
        table=accuracy_table(scores),
    )


def accuracy_table(scores: dict[Setting, Score]) -> str:
    """A Markdown table: a row for each kind of question, a column for each setting."""
    kinds = sorted({kind for score in scores.values() for kind in score.asked})
    lines = [
        "| kind | " + " | ".join(setting.title for setting in scores) + " |",
        "|---" * (len(scores) + 1) + "|",
        "| **all** | " + " | ".join(f"{100 * s.accuracy:.1f}" for s in scores.values()) + " |",
    ]
    for kind in kinds:
        cells = [_cell(score, kind) for score in scores.values()]
        lines.append(f"| {kind.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(score: Score, kind: str) -> str:
    asked = score.asked[kind]
    return f"{100 * score.right[kind] / asked:.0f} ({asked})" if asked else "–"

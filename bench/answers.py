"""What choices and actions cost: side by side and one by one, with and without forced tokens.

    python bench/answers.py [--contexts 512 4096] [--rounds 10] [--out FILE.md]

The bundled model, all blocks cached. What is compared takes turns in one run, so that ratios hold
on a machine whose speed drifts; times are medians of the rounds after the first, which warms up.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from game_agent.blocks.block import Block
from game_agent.config import EngineSettings
from game_agent.engine import Completion, Engine, Request, Sampling
from game_agent.engine.grammar import Constraint, Grammar, GrammarCompiler
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder

GOODS = ["bread", "ale", "a broom", "iron nails", "a wool cloak", "lamp oil", "a map", "a rope"]
EVENT = "Player: I would like to buy something for the way. What can you give me?"


class Timed(Constraint):
    """A constraint that notes how long each mask takes."""

    masks_s: list[float]

    def mask(self, vocab_size: int) -> Any:
        begun = time.perf_counter()
        mask = super().mask(vocab_size)
        self.masks_s.append(time.perf_counter() - begun)
        return mask


class Unforced(Timed):
    """One that leaves even what is certain to a forward pass and a mask."""

    def forced(self) -> list[int]:
        return []


class Watched(Grammar):
    """A grammar whose replies are of another kind of constraint."""

    def __init__(self, grammar: Grammar, kind: type[Timed]) -> None:
        self._grammar = grammar
        self._kind = kind
        self.masks_s: list[float] = []

    def begin(self) -> Constraint:
        constraint = self._grammar.begin()
        constraint.__class__ = self._kind
        constraint.masks_s = self.masks_s  # type: ignore[attr-defined]
        return constraint


def action_schema(num_actions: int) -> dict[str, Any]:
    """Functions of two parameters: a name out of eight, and a number."""

    def of(fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        }

    arguments = of(
        {"item": {"enum": GOODS}, "count": {"type": "integer", "minimum": 1, "maximum": 99}}
    )
    verbs = ["sell", "give", "show", "hide", "repair", "carry", "lend", "praise"]
    return {
        "anyOf": [
            of({"name": {"const": verb}, "arguments": arguments}) for verb in verbs[:num_actions]
        ]
    }


def prompt(engine: Engine, num_tokens: int) -> tuple[Block, ...]:
    """Blocks of about 60 tokens that a village might consist of."""
    encoder = engine.runner.encoder
    blocks: list[Block] = []
    while sum(map(len, blocks)) < num_tokens:
        i = len(blocks)
        stock = "; ".join(f"{goods}: {(i * 7 + k) % 90}" for k, goods in enumerate(GOODS))
        blocks.append(Block(encoder.block(f"places / house {i} / stock: {stock}.", first=not i)))
    return tuple(blocks)


def in_turns(
    runs: dict[str, Callable[[], list[Completion]]], rounds: int
) -> tuple[dict[str, float], dict[str, list[Completion]]]:
    """Median milliseconds of each, and what the last round gave."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    last: dict[str, list[Completion]] = {}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            last[name] = run()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: median(each[1:]) for name, each in times.items()}, last


def choose_rows(
    engine: Engine, contexts: Sequence[int], counts: Sequence[int], rounds: int
) -> list[str]:
    """N options together, together but as N requests, and one after another."""
    lines = [
        "| context | options | one pass, ms | N requests at once, ms | one by one, ms | gain |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    encoder = engine.runner.encoder
    event = encoder.event(EVENT)
    end = engine.runner.end_token_id
    for context in contexts:
        blocks = prompt(engine, context)
        for count in counts:
            texts = [f"I can give you {GOODS[i % 8]} for {i} coins." for i in range(count)]
            options = tuple(np.array([*encoder.tokenizer.encode(t), end], np.int32) for t in texts)
            whole = Request(blocks, event, max_tokens=0, options=options)
            single = [replace(whole, options=(option,)) for option in options]
            times, ends = in_turns(
                {
                    "pass": partial(engine.run, [whole]),
                    "batch": partial(engine.run, single),
                    "single": partial(one_after_another, engine, single),
                },
                rounds,
            )
            check_scores(ends["pass"][0], ends["single"])
            lines.append(
                f"| {context:,} | {count} | {times['pass']:.1f} | {times['batch']:.1f} "
                f"| {times['single']:.1f} | {times['single'] / times['pass']:.1f} × |"
            )
            print(lines[-1], file=sys.stderr)
    return lines


def one_after_another(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    return [engine.run([request])[0] for request in requests]


def check_scores(together: Completion, single: Sequence[Completion]) -> None:
    """A figure of something wrong is worth nothing."""
    assert together.choice is not None
    for score, one in zip(together.choice.scores, single, strict=True):
        assert one.choice is not None
        assert abs(score - one.choice.scores[0]) < 1e-2, (score, one.choice.scores[0])


def act_rows(engine: Engine, contexts: Sequence[int], rounds: int) -> list[str]:
    """Actions whose forced tokens are taken at once, and the same left to the model."""
    lines = [
        "| context | tokens | forced | passes | forced taken, ms/token | drawn, ms/token | gain |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    grammar = engine.grammars.compile(action_schema(8))
    quick, slow = Watched(grammar, Timed), Watched(grammar, Unforced)
    for context in contexts:
        request = Request(
            prompt(engine, context),
            engine.runner.encoder.event(EVENT),
            max_tokens=200,
            sampling=Sampling(1.0, seed=1),
        )
        pair = {"quick": replace(request, grammar=quick), "slow": replace(request, grammar=slow)}
        times, ends = in_turns(
            {name: partial(engine.run, [each]) for name, each in pair.items()}, rounds
        )
        each = {name: times[name] / end[0].usage.generated_tokens for name, end in ends.items()}
        usage = ends["quick"][0].usage
        lines.append(
            f"| {context:,} | {usage.generated_tokens} "
            f"| {usage.forced_tokens / usage.generated_tokens:.0%} "
            f"| {usage.generated_tokens - usage.forced_tokens} "
            f"| {each['quick']:.2f} | {each['slow']:.2f} | {each['slow'] / each['quick']:.1f} × |"
        )
        print(lines[-1], file=sys.stderr)
    micros = sorted(1e6 * seconds for seconds in quick.masks_s)
    mask = (
        f"A mask took {median(micros):.0f} µs (median of {len(micros)}, {micros[-1]:.0f} at most)."
    )
    return [*lines, "", mask]


def compile_line(engine: Engine) -> str:
    """How long a schema takes, the first and later ones."""
    compiler = GrammarCompiler(engine.runner)
    took = []
    for num_actions in range(1, 9):
        begun = time.perf_counter()
        compiler.compile(action_schema(num_actions)).begin()
        took.append(1e3 * (time.perf_counter() - begun))
    return (
        f"The first schema took {took[0]:.1f} ms (it looks at the whole vocabulary of "
        f"{engine.runner.vocab_size:,}), later ones {median(took[1:]):.2f} ms each; the latest are "
        "kept."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 4096, 12288])
    parser.add_argument("--options", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", type=Path, default=None, help="checkpoint folder")
    parser.add_argument("--out", type=Path, default=None, help="write the tables here as well")
    args = parser.parse_args()
    settings = EngineSettings()
    engine = Engine(
        load_runner(args.model or bundled_folder(), kv_memory_bytes=settings.kv_memory_bytes),
        settings,
    )
    try:
        chosen = choose_rows(engine, args.contexts, args.options, args.rounds)
        acted = act_rows(engine, args.contexts, args.rounds)
        compiled = compile_line(engine)
    finally:
        engine.close()
    text = "\n".join(
        [
            "# Choices and actions",
            "",
            f"`python bench/answers.py`: {engine.runner.name}, every block cached, medians of "
            f"{args.rounds} rounds in turns. {platform.machine()}, {os.cpu_count()} CPUs.",
            "",
            "## choose: options of about ten words, scored",
            "",
            *chosen,
            "",
            "## act: one of eight functions with a name out of eight and a number",
            "",
            *acted,
            "",
            compiled,
            "",
        ]
    )
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

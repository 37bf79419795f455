"""Trains what bench/ablation.py compares, from several seeds. Hours; goes on where it was stopped.

    python bench/trainings.py --out FOLDER [--seeds 0,1,2] [--tokens 8000000] [--jobs 2]

For each seed: a model with both masks and one with plain causal attention only, of as many tokens;
then of the latter, with 800 steps each on the data of bench/twin.py, one fine-tuned with both
masks and, as a control, one with plain causal attention. A job takes one core, 8 million tokens
about 40 minutes of it. What each job says is in FOLDER/….log. At the end stands the command that
asks them all.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TWIN = Path(__file__).with_name("twin.py")
FINETUNING = (
    *("--steps", 800, "--rows", 1, "--max-tokens", 768, "--learning-rate", 1e-3),
    *("--on-bad-data", "skip", "--cpu"),
)
ONE_CORE = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(log: Path, *command: object) -> None:
    """Run a command to its end, its words in ``log``. Exits where it fails."""
    texts = [str(word) for word in command]
    with log.open("a") as words:
        done = subprocess.run(
            texts, check=False, stdout=words, stderr=subprocess.STDOUT, env=ONE_CORE
        )
    if done.returncode:
        raise SystemExit(f"{shlex.join(texts)} ended with {done.returncode}; its words: {log}")


def game_agent(out: Path, *arguments: object) -> None:
    """One of the command line's commands, whose ``--out`` is ``out``; nothing if that is there."""
    if (out / "config.json").exists():
        print(f"{out}: there already", flush=True)
        return
    print(f"{out}: begins", flush=True)
    command = (sys.executable, "-m", "game_agent.cli", *arguments, "--out", out)
    run(out.with_name(f"{out.name}.log"), *command)
    print(f"{out}: done", flush=True)


def train(out: Path, seed: int, tokens: int, *options: str) -> None:
    budget = ("--seed", seed, "--tokens", tokens, "--no-measure")
    game_agent(out, "train-bundled", "--preset", "cpu", *budget, *options)


def finetune(twin: Path, data: Path, out: Path, *options: str) -> None:
    game_agent(out, "finetune", twin, "--data", data / "scenes.jsonl", *FINETUNING, *options)


def jobs(folder: Path, seed: int, tokens: int) -> list[Callable[[], None]]:
    """What is to be done for a seed, in chains that do not wait for one another."""

    def of_both_masks() -> None:
        train(folder / f"block-{seed}", seed, tokens)

    def causal() -> None:
        twin = folder / f"causal-{seed}"
        train(twin, seed, tokens, "--causal-only")
        data = folder / f"data-{seed}"
        if not (data / "scenes.jsonl").exists():
            run(folder / "data.log", sys.executable, TWIN, "--out", data, "--seed", seed)
        finetune(twin, data, folder / f"fine-{seed}")
        finetune(twin, data, folder / f"control-{seed}", "--masks", "full")

    return [of_both_masks, causal]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", type=int, default=8_000_000)
    parser.add_argument("--jobs", type=int, default=2, help="at once, a core each")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    chains = [chain for seed in seeds for chain in jobs(options.out, seed, options.tokens)]
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(chain) for chain in chains]:
            done.result()
    names = {"model": "block", "twin": "causal", "finetuned": "fine", "control": "control"}
    found = [
        f"--{option} " + " ".join(str(options.out / f"{name}-{seed}") for seed in seeds)
        for option, name in names.items()
    ]
    print("python bench/ablation.py --out FILE.md", *found, sep=" \\\n    ")


if __name__ == "__main__":
    main()

"""Trains what bench/ablation.py compares, as the paper does. Hours; goes on where it was stopped.

    python bench/trainings.py --out FOLDER [--seeds 0,1,2] [--tokens 9000000] [--jobs 2]

First a model with plain causal attention only, which stands for a stock model. Then of it, for each
seed, with 800 steps each on the data of bench/twin.py: one fine-tuned with both masks and, as a
control, one with plain causal attention. A job takes one core, 9 million tokens about 45 minutes
of it, 800 steps about 8. What each job says is in FOLDER/….log. At the end stands the command that
asks them all.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TWIN = Path(__file__).with_name("twin.py")
FINETUNING = (
    *("--steps", 800, "--rows", 1, "--max-tokens", 768, "--learning-rate", 5e-4),
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


def train(out: Path, tokens: int) -> None:
    """The model with plain causal attention only."""
    options = ("--preset", "cpu", "--tokens", tokens, "--no-measure", "--causal-only")
    game_agent(out, "train-bundled", *options)


def finetune(folder: Path, seed: int) -> None:
    """From that model, on the data of a seed: with both masks, and the control."""
    data = folder / f"data-{seed}"
    if not (data / "scenes.jsonl").exists():
        run(folder / f"data-{seed}.log", sys.executable, TWIN, "--out", data, "--seed", seed)
    learn = ("finetune", folder / "causal", "--data", data / "scenes.jsonl", *FINETUNING)
    game_agent(folder / f"block-{seed}", *learn, "--seed", seed)
    game_agent(folder / f"control-{seed}", *learn, "--seed", seed, "--masks", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", type=int, default=9_000_000)
    parser.add_argument("--jobs", type=int, default=2, help="at once, a core each")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    train(options.out / "causal", options.tokens)
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(finetune, options.out, seed) for seed in seeds]:
            done.result()
    models, controls = (
        " ".join(str(options.out / f"{name}-{seed}") for seed in seeds)
        for name in ("block", "control")
    )
    command = (
        "python bench/ablation.py --out FILE.md --finetuned-from-twin",
        f"--twin {options.out / 'causal'}",
        f"--model {models}",
        f"--control {controls}",
    )
    print(*command, sep=" \\\n    ")


if __name__ == "__main__":
    main()

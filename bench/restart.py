"""Time to the first answer after a restart, with and without encoded blocks on disk.

    python bench/restart.py [--model FOLDER] [--tokens 2048,8192] [--out FILE.md]

Each round loads the model anew and asks one question behind blocks of 64 tokens: once with nothing
kept, once with a cache folder that an earlier engine left. The two take turns. Files are read from
the operating system's cache, as after a crash of the server; after a reboot the disk is slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from game_agent.blocks.block import Block
from game_agent.config import CacheSettings, EngineSettings
from game_agent.engine import Engine, Request, Usage
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder

BLOCK_TOKENS = 64
EVENT_TOKENS = 50


def prompt(num_tokens: int, vocab_size: int) -> Request:
    """The same random prompt for every process."""
    rng = np.random.default_rng(num_tokens)

    def tokens(count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return rng.integers(5, vocab_size, count).astype(np.int32)

    count = (num_tokens - EVENT_TOKENS) // BLOCK_TOKENS
    blocks = tuple(Block(tokens(BLOCK_TOKENS)) for _ in range(count))
    return Request(blocks, tokens(EVENT_TOKENS), max_tokens=1)


def first_answer(model: Path, num_tokens: int, folder: Path | None) -> Usage:
    """What the first question to a new engine costs; with a folder, its blocks are left there."""
    cache = None if folder is None else CacheSettings(folder)
    engine = Engine(load_runner(model, kv_memory_bytes=2**30), EngineSettings(kv_cache=cache))
    # A first pass through the kernels is not what is compared.
    engine.run([Request((), np.array([7], np.int32), max_tokens=1)])
    usage = engine.run([prompt(num_tokens, engine.runner.vocab_size)])[0].usage
    engine.close()
    return usage


def measure(model: Path, num_tokens: int, rounds: int) -> tuple[float, float, float]:
    """Median ms without and with files, and MiB of files."""
    without: list[float] = []
    with_files: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_answer(model, num_tokens, folder)
        for number in range(rounds):
            without.append(first_answer(model, num_tokens, None).ttft_ms)
            usage = first_answer(model, num_tokens, folder)
            if usage.encoded_tokens:
                raise RuntimeError(f"{usage.encoded_tokens} tokens were not found on disk")
            with_files.append(usage.ttft_ms)
            print(f"  {num_tokens} tokens: round {number + 1} of {rounds}", file=sys.stderr)
        size = sum(path.stat().st_size for path in folder.glob("*/*"))
    return statistics.median(without), statistics.median(with_files), size / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=str(bundled_folder()), help="checkpoint folder")
    parser.add_argument("--tokens", default="2048,8192", help="context lengths")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=None, help="write the table to this file as well")
    args = parser.parse_args()
    lines = [
        "| context | encoded anew | from disk | faster by | files |",
        "|---:|---:|---:|---:|---:|",
    ]
    for num_tokens in map(int, args.tokens.split(",")):
        without, with_files, size = measure(Path(args.model), num_tokens, args.rounds)
        lines.append(
            f"| {num_tokens:,} | {without:,.0f} | {with_files:,.0f} "
            f"| {without / with_files:.1f} × | {size:.0f} MiB |"
        )
    report = (
        f"Time to the first token of the first question, in ms; blocks of {BLOCK_TOKENS} tokens, "
        f"medians of {args.rounds} rounds, files in the operating system's cache.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# After a restart\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()

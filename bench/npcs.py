"""Many characters in one world: answered together, and one after another.

    python bench/npcs.py [--agents 32] [--context 8192] [--out FILE.md]

Every character asks a question of its own (50 tokens) about one shared world and gets 32 tokens.
Reports the time of all, time to first token, and the KV memory of the world, which is held once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from game_agent.blocks.block import Block
from game_agent.engine import Completion, Engine, Request
from game_agent.model.runner import load_runner
from game_agent.runtime import bundled_folder
from game_agent_kernels.dispatch import set_num_threads

EVENT_TOKENS = 50
REPLY_TOKENS = 32
BLOCK_TOKENS = 128


def requests(engine: Engine, num_agents: int, context: int, reply_tokens: int) -> list[Request]:
    """One question each; the world's blocks are the same objects for all."""
    rng = np.random.default_rng(0)
    vocab = engine.runner.vocab_size

    def tokens(count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return rng.integers(5, vocab, count).astype(np.int32)

    world = tuple(Block(tokens(BLOCK_TOKENS)) for _ in range(context // BLOCK_TOKENS))
    return [
        Request(world, tokens(EVENT_TOKENS), max_tokens=reply_tokens) for _ in range(num_agents)
    ]


def together(engine: Engine, asked: list[Request]) -> tuple[float, list[Completion]]:
    """(seconds, completions) of all requests submitted at once."""
    begun = time.perf_counter()
    done = engine.run(asked)
    return time.perf_counter() - begun, done


def one_by_one(engine: Engine, asked: list[Request]) -> tuple[float, list[Completion]]:
    """(seconds, completions) of the requests, each after the one before."""
    begun = time.perf_counter()
    done = [engine.run([request])[0] for request in asked]
    return time.perf_counter() - begun, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=str(bundled_folder()), help="checkpoint folder")
    parser.add_argument("--agents", type=int, default=32)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", default=None, help="write the report to this file as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_num_threads(args.threads)
    engine = Engine(load_runner(args.model, kv_memory_bytes=2**30))
    # Nobody may stop early, or the work would differ.
    engine.runner.stop_token_ids = frozenset()
    asked = requests(engine, args.agents, args.context, REPLY_TOKENS)
    engine.run([asked[0]])
    world_pages = engine.store.num_block_pages
    rounds = [(together(engine, asked), one_by_one(engine, asked)) for _ in range(args.rounds)]
    ratios = [a[0] / b[0] for a, b in rounds]
    (batch_s, batch), (single_s, single) = rounds[int(np.argsort(ratios)[len(ratios) // 2])]
    same = sum(a.tokens == b.tokens for a, b in zip(batch, single, strict=True))
    pages = engine.store.num_block_pages
    engine.close()

    def first(done: list[Completion]) -> float:
        return statistics.median(c.usage.ttft_ms for c in done)

    report = f"""{args.agents} characters, world of {args.context:,} tokens, events of \
{EVENT_TOKENS}, replies of {REPLY_TOKENS}; {args.threads} threads, kernels \
`{engine.runner.kernels.name}`; the median of {args.rounds} rounds.

| | together | one after another | ratio |
|---|---:|---:|---:|
| all answered, s | {batch_s:.2f} | {single_s:.2f} | {batch_s / single_s:.2f} |
| TTFT, median ms | {first(batch):.0f} | {first(single):.0f} | |
| generated tokens per s | {args.agents * REPLY_TOKENS / batch_s:,.0f} | \
{args.agents * REPLY_TOKENS / single_s:,.0f} | |

The world's KV lies in {world_pages} pages before, {pages} after all have asked \
({pages * engine.runner.pool.page_bytes / 2**20:.1f} MiB). \
{same} of {args.agents} replies are the same in both.
"""
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# Many characters in one world\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()

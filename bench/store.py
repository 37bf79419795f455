"""The block store under a crowd: hit rates within a fifth of the memory, sharing, bookkeeping.

    python bench/store.py [--agents 500] [--operations 20000] [--out FILE.md]

Three worlds of 2,000 blocks; every agent sees a stretch of one, and has blocks of its own. Random
questions (some agents are asked more than others), changes of worlds, warm-ups and cancels, on a
KV memory for a fifth of all that. Now and then a prompt's logits are compared with an engine that
has nothing cached.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from game_agent.blocks.block import Block
from game_agent.blocks.pool import pages_for
from game_agent.engine import Engine, Request
from game_agent.engine.sequence import Sequence
from game_agent.engine.waiter import Waiter
from game_agent.model.runner import load_runner
from game_agent.model.spec import load_spec
from game_agent.runtime import bundled_folder
from game_agent.text.stream import TextStream
from game_agent_kernels import PAGE_TOKENS

NUM_WORLDS = 3
EVENT_TOKENS = 8
SEEN_BLOCKS = 40
CHECK_EVERY = 400
Tokens = np.ndarray[Any, np.dtype[np.int32]]


def page_bytes(folder: Path) -> int:
    """Of one page of a model's keys and values in float32."""
    return load_spec(folder).kv_bytes_per_token * PAGE_TOKENS


@dataclass
class Figures:
    """What a run of random operations gave."""

    operations: dict[str, int] = field(default_factory=dict)
    cached_tokens: int = 0
    encoded_tokens: int = 0
    num_checked: int = 0
    worst_logit: float = 0.0
    evicted: int = 0
    share_of_memory: float = 0.0
    most_pages: int = 0
    num_pages: int = 0

    @property
    def hit_rate(self) -> float:
        return self.cached_tokens / max(self.cached_tokens + self.encoded_tokens, 1)


class Crowd:
    """Worlds, agents and random operations on them, through one engine."""

    def __init__(self, folder: Path, num_agents: int, world_blocks: int, share: float) -> None:
        self._folder = folder
        self._rng = random.Random(0)
        self._vocab = load_spec(folder).vocab_size
        self._worlds = [
            [self._block(8, 32) for _ in range(world_blocks)] for _ in range(NUM_WORLDS)
        ]
        self._own = [[self._block(40, 80), self._block(16, 48)] for _ in range(num_agents)]
        self._views = [
            (self._rng.randrange(NUM_WORLDS), self._rng.randrange(world_blocks - SEEN_BLOCKS))
            for _ in range(num_agents)
        ]
        blocks = [block for group in (*self._worlds, *self._own) for block in group]
        pages = sum(pages_for(len(block)) for block in blocks)
        budget = int(share * pages) * page_bytes(folder)
        self.engine = Engine(load_runner(folder, kv_memory_bytes=budget))
        self.figures = Figures(share_of_memory=share, num_pages=self.engine.runner.pool.num_pages)
        # A few are asked often, most now and then.
        self._weights = [1 / (rank + 10) for rank in range(num_agents)]

    def _tokens(self, count: int) -> Tokens:
        return np.array([self._rng.randrange(5, self._vocab) for _ in range(count)], np.int32)

    def _block(self, least: int, most: int) -> Block:
        return Block(self._tokens(self._rng.randint(least, most)))

    def _prompt(self) -> tuple[Block, ...]:
        agents = range(len(self._own))
        agent = self._rng.choices(agents, self._weights)[0]
        world, first = self._views[agent]
        return (*self._own[agent], *self._worlds[world][first : first + SEEN_BLOCKS])

    def run(self, num_operations: int) -> Figures:
        """Random operations, one after another; the store is checked after each.

        Raises ``RuntimeError`` where pages are lost or logits are wrong.
        """
        kinds = {"ask": 70, "ask together": 5, "change": 20, "warm": 4, "cancel": 1}
        for number in range(num_operations):
            kind = self._rng.choices(list(kinds), list(kinds.values()))[0]
            self.figures.operations[kind] = self.figures.operations.get(kind, 0) + 1
            self._do(kind)
            self._check_pages()
            if number % CHECK_EVERY == 0:
                self._check_logits()
            if number % 1000 == 0:
                print(f"  {number} of {num_operations}", file=sys.stderr)
        self.figures.evicted = self.engine.store.num_evicted
        return self.figures

    def _do(self, kind: str) -> None:
        if kind == "change":
            world = self._rng.choice(self._worlds)
            world[self._rng.randrange(len(world))] = self._block(8, 32)
        elif kind == "warm":
            empty = np.empty(0, np.int32)
            self.engine.run([Request(self._prompt(), empty, max_tokens=0, priority=-1)])
        elif kind == "cancel":
            waiter = Waiter()
            request = Request(self._prompt(), self._tokens(EVENT_TOKENS), max_tokens=200)
            self.engine.submit(request, waiter).cancel()
            waiter.wait()
        else:
            count = 1 if kind == "ask" else 6
            requests = [
                Request(self._prompt(), self._tokens(EVENT_TOKENS), max_tokens=1)
                for _ in range(count)
            ]
            for completion in self.engine.run(requests):
                self.figures.cached_tokens += completion.usage.cached_tokens
                self.figures.encoded_tokens += completion.usage.encoded_tokens

    def _check_pages(self) -> None:
        """With nothing running every page is free or a block's."""
        pool, store = self.engine.runner.pool, self.engine.store
        used = store.num_block_pages
        if used + pool.num_free != pool.num_pages:
            raise RuntimeError(f"{used} pages used, {pool.num_free} free of {pool.num_pages}")
        self.figures.most_pages = max(self.figures.most_pages, used)

    def _check_logits(self) -> None:
        prompt, event = self._prompt(), self._tokens(EVENT_TOKENS).tolist()
        blocks = [block.tokens.tolist() for block in prompt]
        got = self.engine.logits(blocks, event)
        fresh = Engine(load_runner(self._folder, kv_memory_bytes=2**25))
        expected = fresh.logits(blocks, event)
        fresh.close()
        error = float(((got - expected).abs() / expected.abs().clamp(min=1.0)).max())
        self.figures.num_checked += 1
        self.figures.worst_logit = max(self.figures.worst_logit, error)
        if not error < 1e-4:
            raise RuntimeError(f"logits are off by {error}")


def shared_world(folder: Path, num_agents: int = 100) -> tuple[int, int]:
    """Bytes that a world of 8,192 tokens and ``num_agents`` agents with 300 tokens each take.

    Beside it, what one world and the private parts would take if every page were full.
    """
    engine = Engine(load_runner(folder, kv_memory_bytes=4096 * page_bytes(folder)))
    rng = np.random.default_rng(0)

    def block(count: int) -> Block:
        return Block(rng.integers(5, engine.runner.vocab_size, count).astype(np.int32))

    world = [block(128) for _ in range(64)]
    for _ in range(num_agents):
        prompt = (block(200), *world, block(100))
        engine.run([Request(prompt, np.array([7], np.int32), max_tokens=1)])
    engine.close()
    taken = engine.store.num_block_pages * engine.runner.pool.page_bytes
    ideal = (8192 + num_agents * 300) * engine.runner.pool.page_bytes // PAGE_TOKENS
    return taken, ideal


def admission_ms(folder: Path, num_blocks: int = 300) -> dict[str, float]:
    """Median ms of looking up and admitting prompts of 300 blocks of 27 tokens."""
    num_pages = num_blocks * pages_for(27) * 10
    runner = load_runner(folder, kv_memory_bytes=num_pages * page_bytes(folder))
    engine = Engine(runner)
    rng = np.random.default_rng(0)
    event = np.array([7], np.int32)
    times: dict[str, list[float]] = {
        "all cached": [],
        "all new": [],
        "all new, as many evicted": [],
    }
    for _ in range(40):
        tokens = rng.integers(5, runner.vocab_size, (num_blocks, 27)).astype(np.int32)
        request = Request(tuple(Block(row) for row in tokens), event, max_tokens=1)
        evicted = engine.store.num_evicted
        for again in (False, True):
            sequence = Sequence(request, Waiter(), 0, 0.0, TextStream(runner.tokenizer))
            begun = time.perf_counter()
            sequence.admit(engine.store, runner, 0.0)
            taken = (time.perf_counter() - begun) * 1e3
            for entry in sequence.entries:
                entry.num_filled = entry.num_tokens
            sequence.release(engine.store)
            is_full = engine.store.num_evicted - evicted >= num_blocks
            new = "all new, as many evicted" if is_full else "all new"
            times["all cached" if again else new].append(taken)
    engine.close()
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default=str(bundled_folder()), help="checkpoint folder")
    parser.add_argument("--agents", type=int, default=500)
    parser.add_argument("--blocks", type=int, default=2000, help="of each of the three worlds")
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--out", default=None, help="write the tables to this file as well")
    args = parser.parse_args()
    folder = Path(args.model)
    times = admission_ms(folder)
    taken, ideal = shared_world(folder)
    crowd = Crowd(folder, args.agents, args.blocks, share=0.2)
    figures = crowd.run(args.operations)
    crowd.engine.close()
    report = f"""## A crowd in a fifth of the memory

{args.agents} agents, {NUM_WORLDS} worlds of {args.blocks:,} blocks, {args.operations:,} operations
({", ".join(f"{count:,} × {kind}" for kind, count in sorted(figures.operations.items()))}).

| | |
|---|---:|
| tokens of blocks found cached | {figures.hit_rate:.1%} |
| blocks evicted | {figures.evicted:,} |
| most pages in use, of {figures.num_pages:,} | {figures.most_pages:,} |
| prompts whose logits were compared | {figures.num_checked} |
| largest difference, relative to max(1, logit) | {figures.worst_logit:.1e} |

## One world, a hundred agents

8,192 tokens of world, 100 agents with 300 tokens of their own: {taken / 2**20:.1f} MiB,
{taken / ideal - 1:.1%} above one world and the private parts (pages that are not full).

## Lookup and admission of 300 blocks

| | ms, median |
|---|---:|
{chr(10).join(f"| {name} | {value:.3f} |" for name, value in times.items())}
"""
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# The block store\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()

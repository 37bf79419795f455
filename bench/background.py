"""Does a question wait for blocks that are encoded in the background?

    python bench/background.py [--seconds 20] [--rounds 4] [--out FILE.md]

One server process. A player asks at equal distances; in every second stretch another client
changes a world of its own again and again and has it encoded ahead (``agent.warm``). Idle and busy
stretches take turns in one run, so that their ratio holds on a machine whose speed drifts. Waits
count from the intended send time. Ends with status 1 if the p99 of the time to first token is more
than twice the idle one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

from game_agent.client import Client
from game_agent.soak.game import Game
from game_agent.soak.probe import Probe, Waits, quantile
from game_agent.soak.run import serving
from game_agent.soak.schedule import SoakSettings

BOUND = 2.0
START_S = 2.0  # the other client's, before it counts


def change_again_and_again(
    endpoint: str, context: int, every_s: float, turn: int, is_over: Event
) -> None:
    """New texts to encode, nobody asking for them; in a process of its own, as another game is.

    turn: makes other texts than the turn before; those are encoded already
    """
    game = Game(SoakSettings(context_tokens=context, seed=1 + turn))
    with Client(endpoint) as client:
        while not is_over.wait(every_s):
            client.world_put("background", {"places": game.new_places()})
            client.agent_put("background", world="background", profile="A shadow.")
            client.warm("background")


@contextmanager
def background(endpoint: str, context: int, every_s: float, turn: int) -> Iterator[None]:
    """Until the end of the block."""
    processes = multiprocessing.get_context("spawn")
    is_over = processes.Event()
    work = (endpoint, context, every_s, turn, is_over)
    process = processes.Process(target=change_again_and_again, args=work)
    process.start()
    try:
        time.sleep(START_S)
        yield
    finally:
        is_over.set()
        process.join()


def measure(endpoint: str, args: argparse.Namespace) -> tuple[Waits, Waits, float]:
    """Waits while idle, waits while busy, and tokens encoded per second in the background."""
    probe = Probe(endpoint, args.context, args.max_tokens)
    idle, busy = Waits(), Waits()
    num_tokens = 0
    for turn in range(args.rounds + 1):
        quiet = probe.ask_for(args.seconds, args.asks)
        before = probe.client.stats()["step_tokens"]
        with background(endpoint, args.background, args.every, turn):
            loaded = probe.ask_for(args.seconds, args.asks)
        computed = probe.client.stats()["step_tokens"] - before
        if turn:  # the first round warms up
            idle.extend(quiet)
            busy.extend(loaded)
            num_tokens += computed
        print(f"round {turn} of {args.rounds}", file=sys.stderr)
    probe.close()
    return idle, busy, num_tokens / (args.rounds * args.seconds)


def report(idle: Waits, busy: Waits, rate: float, args: argparse.Namespace) -> tuple[str, float]:
    """Markdown, and the ratio that must not be above 2."""
    lines = [
        "| ms | idle p50 | busy p50 | idle p99 | busy p99 | p99 ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    ratios = []
    for name, quiet, loaded in (
        ("time to first token", idle.ttft_ms, busy.ttft_ms),
        ("whole answer", idle.total_ms, busy.total_ms),
    ):
        p50 = [quantile(values, 0.5) for values in (quiet, loaded)]
        p99 = [quantile(values, 0.99) for values in (quiet, loaded)]
        ratios.append(p99[1] / p99[0])
        lines.append(
            f"| {name} | {p50[0]:.1f} | {p50[1]:.1f} | {p99[0]:.1f} | {p99[1]:.1f} "
            f"| {ratios[-1]:.2f} |"
        )
    text = (
        f"A question every {1000 / args.asks:.0f} ms, "
        f"{idle.num_context_tokens:,} tokens of context, "
        f"{args.max_tokens} tokens of reply, {len(idle.ttft_ms):,} questions in each state, in "
        f"{args.rounds} turns of {args.seconds:g} s. Busy: about {args.background:,} new tokens to "
        f"encode every {args.every:g} s; {rate:,.0f} tokens a second were computed in all. "
        f"{platform.machine()}, {os.cpu_count()} CPUs, which the server ({args.threads or 'all'} "
        "threads), the player and the other client share.\n\n" + "\n".join(lines) + "\n"
    )
    return text, ratios[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one stretch")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--asks", type=float, default=10.0, help="per second")
    parser.add_argument("--context", type=int, default=2048, help="tokens of the player's prompt")
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--background", type=int, default=2048, help="new tokens each time")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between them")
    parser.add_argument("--idle-tokens", type=int, default=None, help="of the server")
    parser.add_argument("--threads", type=int, default=0, help="of the server; 0: its default")
    parser.add_argument("--model", default=None, help="checkpoint folder; default: bundled")
    parser.add_argument("--out", type=Path, default=None, help="write the table here as well")
    args = parser.parse_args()
    serve_args = ["--threads", str(args.threads)] + (["--model", args.model] if args.model else [])
    if args.idle_tokens:
        serve_args += ["--idle-tokens", str(args.idle_tokens)]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(serve_args, Path(folder) / "server.log") as target,
    ):
        text, ratio = report(*measure(target.endpoint, args), args)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(f"# Questions during background encodes\n\n{text}", encoding="utf-8")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())

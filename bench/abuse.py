"""How long others wait while one client behaves badly.

    python bench/abuse.py [--seconds 10] [--rounds 4] [--out FILE.md]

One server process; a player asks at equal distances. In every second stretch another process never
reads, sends 1 GB, or opens 1,000 connections. Quiet and abused stretches take turns in one run, so
that their ratio holds on a machine whose speed drifts. Waits count from the intended send time.
Ends with status 1 if the p99 of whole answers under any abuse is more than twice the quiet one.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path

from abusers import LARGE_WORLD, Abuse, abused, never_read, open_connections, send_bytes

from game_agent.soak.probe import Probe, Waits, quantile
from game_agent.soak.run import serving

BOUND = 2.0
ABUSES: dict[str, Abuse] = {
    "never reads": never_read,
    "sends 1 GB": partial(send_bytes, 2**30, 2**20),
    "opens 1,000 connections": partial(open_connections, 1000),
}


def measure(endpoint: str, args: argparse.Namespace) -> dict[str, tuple[Waits, Waits]]:
    """By abuse: waits in the quiet stretches, and in the abused ones between them."""
    probe = Probe(endpoint, args.context, args.max_tokens)
    probe.client.world_put(LARGE_WORLD, {"text": "x" * 60_000})
    probe.ask_for(args.seconds, args.asks)
    waits = {name: (Waits(), Waits()) for name in ABUSES}
    for turn in range(args.rounds):
        for name, abuse in ABUSES.items():
            quiet, loud = waits[name]
            quiet.extend(probe.ask_for(args.seconds, args.asks))
            with abused(endpoint, abuse):
                loud.extend(probe.ask_for(args.seconds, args.asks))
        print(f"round {turn + 1} of {args.rounds}", file=sys.stderr)
    probe.close()
    return waits


def report(waits: dict[str, tuple[Waits, Waits]], args: argparse.Namespace) -> tuple[str, float]:
    """Markdown, and the worst ratio."""
    lines = [
        "| another client | answers | quiet p50 | abused p50 | quiet p99 | abused p99 | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    worst = 0.0
    for name, (quiet, loud) in waits.items():
        p50 = [quantile(each.total_ms, 0.5) for each in (quiet, loud)]
        p99 = [quantile(each.total_ms, 0.99) for each in (quiet, loud)]
        ratio = p99[1] / p99[0]
        worst = max(worst, ratio)
        lines.append(
            f"| {name} | {len(quiet.total_ms)} + {len(loud.total_ms)} "
            f"| {p50[0]:.1f} | {p50[1]:.1f} | {p99[0]:.1f} | {p99[1]:.1f} | {ratio:.2f} |"
        )
    text = (
        f"Whole answers in ms: a question every {1000 / args.asks:.0f} ms, "
        f"{quiet.num_context_tokens:,} tokens of context, "
        f"{args.max_tokens} tokens of reply, turns of {args.seconds:g} s. "
        f"{platform.machine()}, {os.cpu_count()} CPUs, which the server ({args.threads or 'all'} "
        "threads), the player and the abuser share. Every question was answered.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    return text, worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0, help="of one stretch")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--asks", type=float, default=10.0, help="per second")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="of the server; 0: its default")
    parser.add_argument("--out", type=Path, default=None, help="write the table here as well")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(["--threads", str(args.threads)], Path(folder) / "server.log") as target,
    ):
        text, worst = report(measure(target.endpoint, args), args)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(f"# Others while one client misbehaves\n\n{text}", encoding="utf-8")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())

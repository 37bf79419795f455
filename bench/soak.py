"""Hours of a game's traffic in minutes: latency from the intended send time, and no reply lost.

    python bench/soak.py [--duration 600] [--agents 32] [--asks 4] [--out docs/results/soak]

The same as ``game-agent soak``. Ends with status 1 if a reply was dropped, doubled or wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from game_agent.soak.run import Target, soak
from game_agent.soak.schedule import SoakSettings


def main() -> int:
    defaults = SoakSettings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--duration", type=float, default=defaults.duration_s, help="seconds")
    parser.add_argument("--agents", type=int, default=defaults.num_agents)
    parser.add_argument("--asks", type=float, default=defaults.asks_per_s, help="per second")
    parser.add_argument("--ticks", type=float, default=defaults.ticks_per_s, help="per second")
    parser.add_argument("--context", type=int, default=defaults.context_tokens)
    parser.add_argument("--endpoint", default=None, help="a running server; default: start one")
    parser.add_argument("--model", default=None, help="checkpoint folder for the server started")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    args = parser.parse_args()
    settings = SoakSettings(
        duration_s=args.duration,
        num_agents=args.agents,
        asks_per_s=args.asks,
        ticks_per_s=args.ticks,
        context_tokens=args.context,
    )
    result = soak(
        settings,
        args.out,
        target=Target(args.endpoint) if args.endpoint else None,
        serve_args=["--model", args.model] if args.model else [],
    )
    print(f"{result['counts']}\n{result['latencies'].get('ttft')}\nsee {args.out}/soak.html")
    return 0 if result["is_clean"] else 1


if __name__ == "__main__":
    sys.exit(main())

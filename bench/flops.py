"""The paper's table of operations to the first token, for an 8B model, counted in two ways.

    python bench/flops.py [--out FILE.md]

Arithmetic alone, nothing is run. Block-Attention (arXiv 2409.15355) counts two operations
per parameter and token and leaves attention out; beside it stands our formula (``model/flops.py``),
which counts attention, the output head once, and nothing behind the last layer's keys and values.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from game_agent.model.flops import Flops

# Llama-3.1-8B, the paper's model.
LLAMA_8B = Flops(
    num_layers=32,
    qkv=2 * 4096 * (32 + 2 * 8) * 128,
    pair=4 * 32 * 128,
    finish=2 * 32 * 128 * 4096 + 6 * 4096 * 14336,
    head=2 * 4096 * 128256,
)
EVENT_TOKENS = 50
CONTEXTS = (50, 512, 1024, 2048, 4096, 8192, 16384, 32768)


def as_the_paper(flops: Flops, num_tokens: int) -> int:
    """Two operations for each weight of a matrix and each token; attention is not counted."""
    return num_tokens * (flops.num_layers * (flops.qkv + flops.finish) + flops.head)


def table(flops: Flops) -> str:
    """Markdown: operations to the first token with nothing cached, and with all blocks cached."""
    lines = [
        "| context | full, as the paper | block, as the paper | less by "
        "| full, with attention | block, with attention | less by |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for context in CONTEXTS:
        counts = (
            (as_the_paper(flops, context), as_the_paper(flops, EVENT_TOKENS)),
            (
                flops.forward(context, 0, 1),
                flops.forward(EVENT_TOKENS, context - EVENT_TOKENS, 1),
            ),
        )
        cells = (f"{full:.2g} | {block:.2g} | {1 - block / full:.1%}" for full, block in counts)
        lines.append(f"| {context:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", default=None, help="write the table to this file as well")
    args = parser.parse_args()
    report = (
        f"Shape of Llama-3.1-8B, question of {EVENT_TOKENS} tokens behind cached blocks; "
        f"`python bench/flops.py`.\n\n{table(LLAMA_8B)}\n"
    )
    print(report)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(f"# Operations to the first token\n\n{report}", encoding="utf-8")


if __name__ == "__main__":
    main()

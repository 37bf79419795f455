"""How often the demo's answers agree with its game, over several games.

    python bench/demo.py [--seeds 1,2,3,4,5,6,7,8] [--model FOLDER] [--kv-dtype …] [--out FILE.md]

Each game is played by its own winning policy over ZeroMQ, as `game-agent demo --seed N` plays it,
but without pauses. `game_agent_demos/questions.py` decides what agrees: all that is expected is
said, and nothing that contradicts.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.progress import track

from game_agent.client import Client
from game_agent.runtime import Runtime
from game_agent.server import running
from game_agent_demos.game import build_game, play
from game_agent_demos.player import Player
from game_agent_demos.screen import Screen
from game_agent_demos.turn import Turn

QUESTION_WORDS = 2  # which tell the kinds of question apart
TIMEOUT_S = 120.0


def turns_of(endpoint: str, seed: int) -> list[Turn]:
    """A whole game's turns."""
    with Client(endpoint, timeout_s=TIMEOUT_S) as client:
        unseen = Screen(Console(file=StringIO()))
        player = Player(client, unseen, random.Random(seed), tick_s=0.0)
        player.play(play(build_game(seed)))
    return player.turns


def share(turns: Sequence[Turn]) -> str:
    agreeing = sum(turn.agrees for turn in turns)
    return f"{agreeing} of {len(turns)} | {agreeing / len(turns):.0%}"


def report(games: Mapping[int, Sequence[Turn]], model: str) -> str:
    """Markdown."""
    turns = [turn for game in games.values() for turn in game]
    kinds: defaultdict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        kinds[" ".join(turn.question.split()[:QUESTION_WORDS]) + " …"].append(turn)
    ttft_ms = statistics.median(turn.ttft_ms for turn in turns)
    lines = [
        "# Answers of the demo",
        "",
        f"Model: {model}. {len(games)} games of TextWorld, seeds {', '.join(map(str, games))}: "
        f"**{share(turns).replace(' | ', ', ')}** of the answers agree with the game. Blocks in a "
        f"prompt: {min(t.num_blocks for t in turns)} to {max(t.num_blocks for t in turns)}. First "
        f"piece of an answer: median {ttft_ms:.0f} ms after the "
        "change was sent. To make it anew: `python bench/demo.py --out FILE.md`.",
        "",
        "| game | agree | |",
        "|---|---:|---:|",
        *(f"| seed {seed} | {share(game)} |" for seed, game in games.items()),
        "",
        "| question | agree | |",
        "|---|---:|---:|",
        *(f"| {kind} | {share(asked)} |" for kind, asked in sorted(kinds.items())),
        "",
        "## Those that do not agree",
        "",
        *(f"- {turn.question} {turn.answer}" for turn in turns if not turn.agrees),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", default="1,2,3,4,5,6,7,8")
    parser.add_argument("--model")
    parser.add_argument("--kv-dtype", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    with (
        Runtime.load(options.model, kv_dtype=options.kv_dtype) as runtime,
        running(runtime) as server,
    ):
        console = Console(stderr=True)
        games = {s: turns_of(server.endpoint, s) for s in track(seeds, "games", console=console)}
    text = report(games, options.model or "bundled")
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

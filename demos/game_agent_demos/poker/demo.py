"""``game-agent demo poker``: six players at a table of more than 300 blocks."""

from __future__ import annotations

import importlib.util
import random
import statistics
from collections.abc import Sequence
from itertools import islice

from rich.console import Console

from game_agent.errors import InvalidInput, Unavailable
from game_agent.runtime import Runtime
from game_agent_demos import INTERRUPTED
from game_agent_demos.poker.match import Decision, Match, warm_up
from game_agent_demos.poker.table import Table

HISTORY_LINES = 260
HEAD = (
    f"{'':4} {'player':6} {'choice':18} {'of':>2} {'fields':>6} {'blocks':>9} "
    f"{'context = cached + encoded + prefilled':>38} {'prefix':>6} {'ms':>6}"
)
LEGEND = (
    "fields: changed since the decision before. blocks: encoded / in the prompt. "
    "prefix: tokens that a cache of prefixes would compute. ms: from the change to the choice."
)


def run(
    *,
    ticks: int = 30,
    seed: int = 1,
    model: str | None = None,
    history_lines: int = HISTORY_LINES,
    console: Console | None = None,
) -> int:
    """Play ``ticks`` decisions; return the exit status.

    ``model`` is a checkpoint folder or Hub id, None the bundled model, which was not taught poker:
    what it costs is shown, not how well it plays. Raises InvalidInput for a value out of range,
    Unavailable if PokerKit is missing.
    """
    if ticks < 1:
        raise InvalidInput(f"--ticks must be at least 1, not {ticks}")
    if importlib.util.find_spec("pokerkit") is None:
        raise Unavailable("the demo needs PokerKit: pip install 'game-agent[demo]'")
    console = console or Console()
    rng = random.Random(seed)
    table = Table(rng)
    warm_up(table, rng, history_lines)
    made: list[Decision] = []
    with Runtime.load(model) as runtime:
        match = Match(runtime, table)
        console.print(f"{len(match.agents)} players, {match.world.num_blocks} blocks of world.")
        match.warm()
        console.print(LEGEND, HEAD, sep="\n", highlight=False, soft_wrap=True)
        try:
            for decision in islice(match.decisions(), ticks):
                made.append(decision)
                console.print(line(len(made), decision), highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            return INTERRUPTED
    for sentence in summary(made):
        console.print(sentence, highlight=False)
    return 0


def line(number: int, made: Decision) -> str:
    """A decision as a row below ``HEAD``."""
    context = (
        f"{made.context_tokens} = {made.cached_tokens} + {made.encoded_tokens} "
        f"+ {made.prefill_tokens}"
    )
    prefix = "" if made.recomputed is None else str(made.recomputed)
    return (
        f"{number:4} {made.player:6} {made.choice:18} {len(made.options):2} "
        f"{made.fields_changed:6} {f'{made.blocks_encoded} / {made.blocks}':>9} "
        f"{context:>38} {prefix:>6} {made.ms:6.0f}"
    )


def summary(made: Sequence[Decision]) -> list[str]:
    """The game in a few sentences."""
    computed = sum(d.computed_tokens for d in made)
    context = sum(d.context_tokens for d in made)
    again = [d for d in made if d.recomputed is not None]
    sentences = [
        f"{len(made)} decisions in one forward pass each, median "
        f"{statistics.median(d.ms for d in made):.0f} ms: {context:,} context tokens, "
        f"{computed:,} of them computed.",
    ]
    if again:
        prefix = sum(d.recomputed or 0 for d in again)
        ours = sum(d.computed_tokens for d in again)
        sentences.append(
            f"Where a player had been asked before, a cache of prefixes would have computed "
            f"{prefix:,} tokens; {ours:,} were."
        )
    return sentences

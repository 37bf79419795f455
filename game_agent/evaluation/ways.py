"""Ways to read a prompt that are compared: modes, and the placements of the paper's baselines."""

from __future__ import annotations

from dataclasses import dataclass

from game_agent.engine.placement import Placement
from game_agent.engine.request import Mode
from game_agent.errors import InvalidInput


@dataclass(frozen=True)
class Way:
    """A name for the command line, and what it is for the engine."""

    name: str
    mode: Mode
    placement: Placement = "prompt"


WAYS = {
    way.name: way
    for way in (
        Way("block", "block"),
        Way("full", "full"),
        Way("contextual", "contextual"),
        Way("unmoved", "block", "unmoved"),
        Way("slots", "block", "slots"),
        Way("parallel", "block", "parallel"),
    )
}
LEGEND = """\
block: each block is encoded alone, positions are re-encoded. full: plain causal attention.
contextual: keys and values of a prompt in which one block was another, moved, with repair.
Baselines: unmoved: block mode without position re-encoding; slots: blocks in slots of the longest
one's size, as in Prompt Cache; parallel: blocks side by side behind the first, as in Superposition
Prompting, without its pruning."""


def parse_ways(names: str) -> list[Way]:
    """Ways from ``block,full``; ``all`` is every one. Raises :class:`InvalidInput`."""
    wanted = dict.fromkeys(name.strip() for name in names.split(","))
    if "all" in wanted:
        return list(WAYS.values())
    for name in wanted:
        if name not in WAYS:
            raise InvalidInput(f"--modes: there is no {name!r}; there are {', '.join(WAYS)}, all")
    return [WAYS[name] for name in wanted]

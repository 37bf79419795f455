"""``game-agent partition``: how a world is cut, and what a patch would encode again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from game_agent.agents.rules import Rule, parse_rules
from game_agent.agents.world import World
from game_agent.errors import InvalidInput
from game_agent.model.checkpoint import resolve
from game_agent.runtime import bundled_folder
from game_agent.text.choosing import choose_format
from game_agent.text.formats import PromptEncoder
from game_agent.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Row:
    """One block of a world. ``is_new``: the patch made it, so that it must be encoded."""

    path: str
    text: str
    num_tokens: int
    is_new: bool


def cut_rows(
    state: Mapping[str, Any],
    count_tokens: Callable[[str], int],
    patch: Sequence[Any] | Mapping[str, Any] | None = None,
    rules: Sequence[Rule] = (),
) -> list[Row]:
    """The blocks of ``state`` after ``patch``: a JSON Patch if it is an array, else a Merge Patch.

    Raises InvalidInput for a state or a patch that is none.
    """
    world = World("file", dict(state), rules=rules)
    old = Counter(part.text for part in world.partition.parts)
    if isinstance(patch, Mapping):
        world.patch(merge=dict(patch))
    elif patch is not None:
        world.patch(list(patch))
    rows = []
    for part in world.partition.parts:
        is_new = old[part.text] == 0
        old[part.text] -= not is_new
        rows.append(Row(part.path, part.text, count_tokens(part.text), is_new))
    return rows


def show_partition(
    console: Console,
    file: Path,
    *,
    patch: Path | None,
    rules: Path | None,
    model: str | None,
    prompt_format: str | None = None,
) -> None:
    """Print the blocks of a world in a JSON file, with their tokens in a model's prompt format.

    Raises InvalidInput for files that cannot be used, ModelError for the model.
    """
    folder = bundled_folder() if model is None else resolve(model)
    tokenizer = Tokenizer.load(folder)
    encoder = PromptEncoder(tokenizer, choose_format(folder, tokenizer, prompt_format))
    state = read_json(file)
    if not isinstance(state, dict):
        raise InvalidInput(f"{file} must hold a JSON object")
    change = None if patch is None else read_json(patch)
    if not isinstance(change, dict | list | None):
        raise InvalidInput(f"{patch} must hold a JSON Patch (array) or a Merge Patch (object)")
    made = () if rules is None else parse_rules(read_json(rules))
    rows = cut_rows(state, lambda text: len(encoder.block(text)), change, made)
    console.print(_table(rows))
    console.print(summary(rows, is_patched=patch is not None))


def summary(rows: Sequence[Row], *, is_patched: bool) -> str:
    """``12 blocks, 345 tokens; the patch encodes 1 block, 23 tokens``."""
    text = f"{len(rows)} blocks, {sum(row.num_tokens for row in rows)} tokens"
    if not is_patched:
        return text
    new = [row.num_tokens for row in rows if row.is_new]
    return f"{text}; the patch encodes {len(new)} of them, {sum(new)} tokens"


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises InvalidInput, which names the file.

    An object that names a member twice is an error, as it is on the wire: in a JSON Patch it must
    be (RFC 6902, A.13), and in a world one of the two would be lost.
    """
    try:
        return json.loads(path.read_text("utf-8"), object_pairs_hook=_each_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON: {error}") from error


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f'the member "{name}" appears twice in an object')
        members[name] = value
    return members


def _table(rows: Sequence[Row]) -> Table:
    table = Table("", "path", "tokens", "text", box=None)
    table.columns[2].justify = "right"
    for row in rows:
        # Text, because markup in a world is not ours.
        cells = (row.path or "/", str(row.num_tokens), row.text)
        table.add_row("*" if row.is_new else "", *map(Text, cells))
    return table

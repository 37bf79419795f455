"""docs/messages.md, made of tests/messages.jsonl: python tests/message_page.py writes it."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from game_agent.protocol import VERSION
from game_agent.protocol.codec import Map, encode

TABLE = Path(__file__).parent / "messages.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "messages.md"
HEX_WIDTH = 96
HEAD = """\
# Messages

An example of every message of the [wire protocol](protocol.md), as JSON and as the bytes on the
wire (hexadecimal), to check a client's encoder against. MessagePack has several forms for some
values; these are the shortest. Fields of a reply may come in another order, and there may be more
of them; lists are shortened. Binary is shown as `h'...'`.

This page is made of `tests/messages.jsonl` by `python tests/message_page.py`; the tests send each
of these requests to a server and compare the fields of its replies with those shown here.
"""


@dataclass(frozen=True)
class Example:
    """A request, and replies to it. ``has_more``: the replies have fields that are not shown."""

    title: str
    about: str
    request: Map
    replies: list[Map]
    has_more: bool


def read_examples() -> list[Example]:
    """The table, with all that is on the wire in it."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, object_hook=_binary) for line in lines]
    return [
        Example(
            row["title"],
            row["about"],
            {"v": VERSION, **row["send"]},
            [{"v": VERSION, **reply} for reply in row["replies"]],
            row.get("more", False),
        )
        for row in rows
    ]


def page(examples: list[Example]) -> str:
    """The text of docs/messages.md."""
    parts = [HEAD]
    for example in examples:
        parts.append(f"## {example.title}\n\n{example.about}\n\n{_block(example.request)}")
        parts += [_block(reply) for reply in example.replies]
    return "\n".join(parts)


def _block(message: Map) -> str:
    arrow = "->" if "op" in message else "<-"
    shown = json.dumps(message, ensure_ascii=False, default=lambda data: f"h'{data.hex()}'")
    lines = textwrap.wrap(encode(message).hex(), HEX_WIDTH)
    return "\n".join(["```", f"{arrow} {shown}", *lines, "```", ""])


def _binary(value: Map) -> Any:
    return bytes.fromhex(value["$hex"]) if "$hex" in value else value


if __name__ == "__main__":
    PAGE.write_text(page(read_examples()), encoding="utf-8")

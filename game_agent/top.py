"""A live view of a running server in the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from game_agent.client import Client

RATES = {
    "requests": "num_requests",
    "generated tokens": "generated_tokens",
    "prefilled tokens": "prefill_tokens",
    "encoded tokens": "encoded_tokens",
    "forward passes": "steps",
}
QUANTILES = ("p50", "p99", "max")


def top(client: Client, console: Console, *, every_s: float = 1.0, num_views: int = 0) -> None:
    """Show the server's figures again and again, ``num_views`` times or (0) until interrupted."""
    before, before_s = _figures(client), time.monotonic()
    shown = 0
    with Live(view(before, before, 1.0), console=console, auto_refresh=False) as live:
        while not num_views or shown < num_views:
            time.sleep(every_s)
            now, now_s = _figures(client), time.monotonic()
            live.update(view(now, before, now_s - before_s), refresh=True)
            before, before_s = now, now_s
            shown += 1


def view(now: Mapping[str, Any], before: Mapping[str, Any], elapsed_s: float) -> Table:
    """Two looks at a server's figures, ``elapsed_s`` apart, as a table."""
    table = Table(title="game-agent", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for title, name in RATES.items():
        rate = (now.get(name, 0) - before.get(name, 0)) / elapsed_s
        table.add_row(f"{title} per s", f"{rate:,.1f}")
    ttft = now.get("ttft_ms", {})
    for name in QUANTILES:
        table.add_row(f"TTFT {name}", f"{ttft[name]:,.0f} ms" if name in ttft else "-")
    asked, encoded = now.get("blocks_asked", 0), now.get("blocks_encoded", 0)
    table.add_row("blocks found encoded", f"{1 - encoded / asked:.1%}" if asked else "-")
    pages, free = now.get("pages", 0), now.get("pages_free", 0)
    table.add_row("KV pages in use", f"{pages - free:,} of {pages:,}")
    for title, name in (("sessions", "num_sessions"), ("open requests", "num_pending")):
        table.add_row(title, f"{now.get(name, 0):,}")
    for title in ("worlds", "agents"):
        table.add_row(title, f"{now.get(title, 0):,}")
    refused = sum(now.get("refused", {}).values())
    table.add_row("refused", f"{refused:,}")
    return table


def _figures(client: Client) -> dict[str, Any]:
    stats = client.stats()
    return {**stats, **stats["server"]}

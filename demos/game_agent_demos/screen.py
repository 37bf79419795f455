"""What the demo shows: a live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from game_agent_demos.turn import Turn

MAX_ROWS = 12
ROOM_TO_ASK = 4  # lines that the row of the present tick may take
WIDE = 110  # columns from which on there is room for actions, and for answers beside questions
REFRESHES_PER_S = 15
NUMBERS = ("tick", "facts", "blocks", "context", "TTFT")
WORDS = {"action": 2, "question": 3, "answer": 4}  # shares of the width that the others leave
LEGEND = (
    "blocks: changed / in the prompt. context: tokens cached + encoded + prefilled. "
    "TTFT: from sending the change to the first piece of the answer."
)


class Screen:
    """Shows turns as they come. A context manager; used by one thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._rows: deque[Turn] = deque(maxlen=MAX_ROWS)
        self._asking: dict[str, str] | None = None
        self._live = Live(
            console=self._console,
            get_renderable=self._table,
            refresh_per_second=REFRESHES_PER_S,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._asking = None
        self._live.stop()

    def tell(self, line: str) -> None:
        """A line of its own."""
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def ask(self, tick: int, action: str, question: str) -> None:
        """A tick begins: what the player did, and what is asked about it."""
        self._asking = {"tick": str(tick), "action": action, "question": question, "answer": ""}

    def hear(self, piece: str) -> None:
        """A piece of the answer to what was asked last."""
        if self._asking is not None:
            self._asking["answer"] += piece

    def show(self, turn: Turn) -> None:
        """The tick is over."""
        self._asking = None
        self._rows.append(turn)
        if not self._console.is_terminal:
            self.tell(line_of(turn))
            return
        room = self._console.height - ROOM_TO_ASK
        while len(self._rows) > 1 and len(self._console.render_lines(self._table())) > room:
            self._rows.popleft()

    def sum_up(self, lines: Sequence[str]) -> None:
        """What it all came to, after the last turn."""
        for line in ["", *lines]:
            self.tell(line)

    def _table(self) -> Table:
        is_wide = self._console.width >= WIDE
        table = Table(box=box.SIMPLE_HEAD, expand=True, collapse_padding=True, pad_edge=False)
        table.caption, table.caption_justify = LEGEND, "left"
        for title in NUMBERS:
            table.add_column(title, justify="right", no_wrap=True)
        if is_wide:
            for title, ratio in WORDS.items():
                table.add_column(title, ratio=ratio, no_wrap=title == "action")
        else:
            table.add_column("question, answer", ratio=1)
        table.add_column("agrees")
        rows = [(cells(turn), "" if turn.agrees else "red") for turn in self._rows]
        if self._asking is not None:
            rows.append((self._asking, "bold"))
        for row, style in rows:
            words = [row[title] for title in WORDS]
            said = words if is_wide else ["\n".join(words[1:])]
            texts = [row.get(title, "") for title in NUMBERS] + said + [row.get("agrees", "")]
            table.add_row(*map(Text, texts), style=style)
        return table


def cells(turn: Turn) -> dict[str, str]:
    """A turn's columns as text, by title."""
    tokens = (turn.cached_tokens, turn.encoded_tokens, turn.prefill_tokens)
    return {
        "tick": str(turn.tick),
        "action": turn.action,
        "facts": str(turn.num_facts_changed),
        "blocks": f"{turn.num_blocks_changed}/{turn.num_blocks}",
        "context": f"{turn.context_tokens}={'+'.join(map(str, tokens))}",
        "TTFT": f"{turn.ttft_ms:.0f} ms",
        "question": turn.question,
        "answer": turn.answer,
        "agrees": "yes" if turn.agrees else "no",
    }


def line_of(turn: Turn) -> str:
    """A turn where there is no table."""
    return " | ".join(f"{title} {text}" for title, text in cells(turn).items())

"""A conversation with one character in the terminal, showing what each answer cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from game_agent.agents.agent import Agent
from game_agent.agents.ask import Answer
from game_agent.errors import GameAgentError, InvalidInput
from game_agent.runtime import Runtime

VILLAGE: dict[str, Any] = {
    "weather": "rain",
    "time": "evening",
    "places": {
        "inn": {"keeper": "Mira", "rooms_free": 3, "bed_price": 4},
        "old mill": {"state": "closed", "owner": "Aldric"},
        "north gate": {"state": "locked", "guard": "Torven"},
    },
    "people": {
        "Aldric": {"job": "miller", "at": "inn", "mood": "tired"},
        "Torven": {"job": "guard", "at": "north gate", "mood": "bored"},
        "Selwyn": {"job": "bard", "at": "inn", "mood": "cheerful"},
    },
    "stock": {
        "bread": {"price": 2, "left": 8},
        "iron lantern": {"price": 12, "left": 1},
        "rope": {"price": 5, "left": 4},
    },
    "quests": {
        "The Lost Bell": {"state": "active", "giver": "Selwyn", "reward": 40},
    },
}
PROFILE = "Mira runs the inn."
HELP = (
    "Talk, or: /set POINTER JSON changes the world (/set /places/inn/rooms_free 1), "
    "/world shows it, /blocks lists its blocks, /quit ends."
)


class Chat:
    """Reads lines, prints answers, each with a line of tokens and times."""

    def __init__(self, runtime: Runtime, console: Console, *, name: str, profile: str) -> None:
        self._console = console
        self._world = runtime.world("chat", VILLAGE)
        self._agent: Agent = runtime.agent(name, world=self._world, profile=profile)
        self._agent.warm()

    def load_world(self, state: Mapping[str, Any]) -> None:
        """Another world than the village. Raises :class:`InvalidInput` for what is no state."""
        self._world.put(state)
        self._agent.warm()

    def run(self) -> None:
        """Until ``/quit`` or the end of input."""
        self._console.print(f"[dim]{HELP}[/dim]")
        while True:
            try:
                line = self._console.input("[bold]You:[/bold] ").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line == "/quit":
                return
            if not line:
                continue
            try:
                self._command(line) if line.startswith("/") else self._say(line)
            except GameAgentError as error:
                self._console.print(error.message, style="red", markup=False)

    def _say(self, text: str) -> None:
        self._console.print(f"[bold]{self._agent.name}:[/bold] ", end="")
        reply = self._agent.say("Player", text)
        for piece in reply:
            self._console.print(piece, end="", markup=False, highlight=False)
        self._console.print()
        if reply.answer is not None:
            self._console.print(cost_line(reply.answer), style="dim", highlight=False)

    def _command(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/world":
            self._console.print_json(json.dumps(self._world.state))
        elif command == "/blocks":
            for part in self._world.parts(("",)):
                self._console.print(part.text, markup=False)
        elif command == "/set":
            pointer, _, value = rest.partition(" ")
            change = self._world.patch(
                [{"op": "add", "path": pointer, "value": _json_or_text(value)}]
            )
            changed = f"{change.blocks_changed} of {change.blocks} blocks changed"
            self._console.print(changed, style="dim", highlight=False)
        else:
            raise InvalidInput(f"there is no command {command}. {HELP}")


def cost_line(answer: Answer) -> str:
    """``context 412 = 380 cached + 21 encoded + 11 prefilled tokens, TTFT 9 ms, …``."""
    u = answer.usage
    return (
        f"context {u.context_tokens} = {u.cached_tokens} cached + {u.encoded_tokens} encoded + "
        f"{u.prefill_tokens} prefilled tokens; TTFT {u.ttft_ms:.0f} ms, "
        f"{u.generated_tokens} tokens in {u.total_ms:.0f} ms"
    )


def _json_or_text(value: str) -> Any:
    """JSON, or the text itself, so that nobody has to quote a word."""
    try:
        return json.loads(value)
    except ValueError:
        return value

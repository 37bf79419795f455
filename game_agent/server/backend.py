"""What the server needs of a runtime: ``game_agent.runtime.Runtime`` fits, so does a fake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from game_agent.errors import GameAgentError

if TYPE_CHECKING:
    from game_agent.agents.actions import Action
    from game_agent.agents.ask import AskOptions
    from game_agent.agents.budget import MemoryBudget
    from game_agent.agents.lore import Lorebook
    from game_agent.agents.memory import Memory
    from game_agent.agents.persona import Persona
    from game_agent.agents.rules import Rule
    from game_agent.agents.snapshot import Snapshot
    from game_agent.agents.task import Question


class Answer(Protocol):
    """The end of an ask; ``usage`` is a dataclass with the fields of the protocol."""

    @property
    def text(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def usage(self) -> Any: ...
    @property
    def action(self) -> Any: ...
    @property
    def choice(self) -> Any: ...


class AskListener(Protocol):
    """Called from the engine's thread: any number of texts, then exactly one end."""

    def on_text(self, index: int, text: str) -> None: ...

    def on_done(self, answer: Any) -> None: ...

    def on_error(self, error: GameAgentError) -> None: ...


class Ask(Protocol):
    """An ask that is running or has ended."""

    def cancel(self) -> None: ...

    def heard(self, num_chars: int) -> None: ...


class Agent(Protocol):
    """A character. ``ask`` never blocks."""

    lore: Lorebook | None
    memory: Memory

    @property
    def name(self) -> str: ...
    @property
    def world(self) -> Any: ...
    @property
    def persona(self) -> Persona: ...
    @property
    def sees(self) -> tuple[str, ...]: ...
    @property
    def budget(self) -> MemoryBudget: ...

    def observe(
        self, text: str, game_time: float | None = None, *, pinned: bool = False
    ) -> object: ...

    def history(self, last: int | None = None) -> list[dict[str, Any]]: ...

    def rewind(self, game_time: float) -> int: ...

    def inspect(
        self, text: str | None = None, *, speaker: str = "Player"
    ) -> list[dict[str, object]]: ...

    def warm(self, *, keep: bool = False) -> object: ...

    def ask(
        self,
        text: str,
        options: AskOptions,
        *,
        speaker: str,
        peer: str,
        listener: AskListener,
        question: Question,
    ) -> Ask: ...


class WorldChange(Protocol):
    """What a patch did."""

    @property
    def seq(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def blocks_changed(self) -> int: ...


class World(Protocol):
    """A game's state."""

    lore: Lorebook | None
    rules: tuple[Rule, ...]

    @property
    def name(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def state(self) -> Any: ...
    @property
    def num_blocks(self) -> int: ...

    def patch(
        self,
        ops: list[Any] | None = None,
        *,
        merge: dict[str, Any] | None = None,
        seq: int | None = None,
    ) -> WorldChange: ...


class Backend(Protocol):
    """Worlds, agents and the engine behind them. Thread-safe."""

    @property
    def model_name(self) -> str: ...
    @property
    def max_context_tokens(self) -> int: ...
    @property
    def modes(self) -> Sequence[str]: ...
    @property
    def worlds(self) -> Mapping[str, World]: ...
    @property
    def agents(self) -> Mapping[str, Agent]: ...

    def world(
        self,
        name: str,
        state: dict[str, Any],
        *,
        seq: int = 0,
        partition: Sequence[Rule] | None = None,
    ) -> World: ...

    def get_world(self, name: str) -> World: ...

    def remove_world(self, name: str) -> None: ...

    def agent(
        self,
        name: str,
        *,
        world: str,
        profile: str | dict[str, Any] | None = None,
        card: dict[str, Any] | None = None,
        sees: Sequence[str] = ("",),
        instructions: str = "",
        memory_tokens: int | None = None,
        recall: int = 0,
        summarize: bool = False,
        actions: Sequence[Action] = (),
    ) -> Agent: ...

    def get_agent(self, name: str) -> Agent: ...

    def remove_agent(self, name: str) -> None: ...

    def save(self, world: str) -> bytes: ...

    def restore(self, saved: Snapshot) -> World: ...

    def stats(self) -> dict[str, Any]: ...

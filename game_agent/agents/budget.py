"""What of a memory a prompt may hold."""

from __future__ import annotations

from dataclasses import dataclass

from game_agent.agents.limits import MAX_COUNT
from game_agent.errors import InvalidInput


@dataclass(frozen=True)
class MemoryBudget:
    """How much of what an agent remembers its prompts hold, and which part.

    tokens: most tokens of remembered turns; None: as many as fit beside the rest
    recall: how many turns that are too old for the prompt come back when a question is about them
    summarize: have the model sum up, in idle time, what is too old for the prompt; until that is
        done, or where it fails, the oldest turns are left out

    The latest turns come first, and before them those that are pinned. The character, its
    instructions and what it sees are no part of the memory and are never dropped for it. Raises
    InvalidInput, with ``where`` as the setting of ``Runtime.agent``.
    """

    tokens: int | None = None
    recall: int = 0
    summarize: bool = False

    def __post_init__(self) -> None:
        if self.tokens is not None and not 0 <= self.tokens <= MAX_COUNT:
            message = f"memory_tokens is a number of tokens, 0 to {MAX_COUNT}"
            raise InvalidInput(message, where="memory_tokens")
        if not 0 <= self.recall <= MAX_RECALL:
            message = f"recall is a number of turns, 0 to {MAX_RECALL}"
            raise InvalidInput(message, where="recall")


MAX_RECALL = 100

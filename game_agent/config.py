"""Settings: frozen, checked once, with defaults that need no thought."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from game_agent.errors import InvalidInput

GIB = 2**30


@dataclass(frozen=True)
class CacheSettings:
    """Where encoded blocks are kept beyond the KV memory.

    folder:     files that outlive the process, for any number of models; None: none
    disk_bytes: most that all files below ``folder`` may take
    host_bytes: memory of the host that keeps what a GPU's KV memory has no room for; 0: none
    """

    folder: Path | None = None
    disk_bytes: int = 8 * GIB
    host_bytes: int = 0

    def __post_init__(self) -> None:
        if self.disk_bytes < 1:
            raise InvalidInput("the size of the KV cache must be positive", where="disk_bytes")
        if self.host_bytes < 0:
            raise InvalidInput("host_bytes must not be negative", where="host_bytes")


@dataclass(frozen=True)
class EngineSettings:
    """How much the engine may use, and how much it does at once.

    kv_memory_bytes: room for cached keys and values
    step_tokens:     most new tokens in one forward pass; bounds how long a step can delay others
    idle_tokens:     most tokens of one step that nobody waits for (blocks made ready ahead): how
                     long a question that comes right then can be held up
    max_running:     most requests that are computed together
    max_waiting:     most requests that wait before new ones are refused as overloaded
    repair_tokens:   in ``contextual`` mode, how many tokens are computed anew where text that was
                     moved begins; 0 is the fastest, more is closer to ``full``
    refresh_when_idle: in ``contextual`` mode, make what is approximate exact while nobody waits
    kv_cache:        where encoded blocks are kept beyond ``kv_memory_bytes``; None: nowhere
    """

    kv_memory_bytes: int = GIB
    step_tokens: int = 2048
    idle_tokens: int = 64
    max_running: int = 64
    max_waiting: int = 1024
    repair_tokens: int = 128
    refresh_when_idle: bool = True
    kv_cache: CacheSettings | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            lowest = 0 if name in ("repair_tokens", "refresh_when_idle") else 1
            if isinstance(value, int) and value < lowest:
                raise InvalidInput(f"{name} must be at least {lowest}, not {value}", where=name)
        if self.step_tokens < self.max_running:
            # Every running reply gets its token in every step.
            raise InvalidInput("step_tokens must be at least max_running", where="step_tokens")

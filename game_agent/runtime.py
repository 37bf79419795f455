"""The facade: one object that holds a model, its engine, worlds and agents."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from game_agent.agents.roster import Roster
from game_agent.clock import Clock, SystemClock
from game_agent.config import CacheSettings, EngineSettings
from game_agent.engine import Engine
from game_agent.engine.request import MODES, Mode
from game_agent.errors import InvalidInput
from game_agent.model.checkpoint import resolve
from game_agent.model.runner import AUTO, ModelRunner, load_runner


class Runtime(Roster):
    """Worlds and agents on one model. Safe to use from any thread.

    ``with Runtime.load() as runtime: …`` closes it at the end.
    """

    modes: tuple[Mode, ...] = MODES

    def __init__(
        self,
        runner: ModelRunner,
        settings: EngineSettings | None = None,
        *,
        default_mode: Mode = "block",
        eager: bool = False,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        super().__init__(Engine(runner, settings, clock), clock, default_mode, eager=eager)

    @staticmethod
    def load(
        folder: str | os.PathLike[str] | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        weights: str | None = None,
        kv_dtype: str | None = AUTO,
        settings: EngineSettings | None = None,
        prompt_format: str | None = None,
        prompt_prefix: str = "",
        backend: str | None = None,
        default_mode: Mode = "block",
        eager: bool = False,
        kv_cache: str | os.PathLike[str] | CacheSettings | None = None,
        sink: str | None = None,
    ) -> Runtime:
        """Load a checkpoint folder or Hub id; None is the bundled model.

        device: "cpu", "cuda", …; None is this machine's best. dtype: "float32", "bfloat16",
        "float16"; None is float32 on a CPU and bfloat16 elsewhere. weights: "int8" rounds them to
        8 bits. kv_dtype, of cached text on a CPU: "float32" or "bfloat16", half as large; "auto" is
        bfloat16 where the processor multiplies that, None is dtype. default_mode: "block" for
        models that were block-fine-tuned, "full" for others, "contextual" for others where a small
        loss of fidelity is a fair price for speed after changes. eager: encode what changes in a
        world while nobody waits, instead of with the next question (block mode).

        sink: a text that begins every prompt of block mode and that all its blocks are encoded
        behind; it may help models that were not block-fine-tuned.

        kv_cache: a folder that keeps encoded blocks, so that they are there after a restart; or
        :class:`CacheSettings`, for its size and for tiers in memory.

        prompt_format, prompt_prefix: see docs/prompt-formats.md; None chooses.

        Raises :class:`ModelError` for a folder that cannot be used.
        """
        if default_mode not in MODES:
            raise InvalidInput(f"default_mode must be one of {', '.join(MODES)}")
        settings = settings or EngineSettings()
        if kv_cache is not None:
            if not isinstance(kv_cache, CacheSettings):
                kv_cache = CacheSettings(Path(kv_cache))
            settings = replace(settings, kv_cache=kv_cache)
        runner = load_runner(
            bundled_folder() if folder is None else resolve(folder),
            kv_memory_bytes=settings.kv_memory_bytes,
            device=device,
            dtype=dtype,
            weights=weights,
            kv_dtype=kv_dtype,
            prompt_format=prompt_format,
            prompt_prefix=prompt_prefix,
            backend=backend,
            sink=sink,
        )
        return Runtime(runner, settings, default_mode=default_mode, eager=eager)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def touch_memory(self) -> None:
        """Have the system back all of the KV memory now, in the background.

        For programs that live long enough to use it all: first writes to fresh memory would
        otherwise hold up questions. Loading touches the first 256 MiB. Linux only.
        """
        self.engine.runner.touch_memory()

    def close(self) -> None:
        """Stop the engine; open questions end as cancelled."""
        self.engine.close()

    @property
    def model_name(self) -> str:
        return self.engine.runner.name

    @property
    def max_context_tokens(self) -> int:
        return self.engine.runner.max_context_tokens

    def stats(self) -> dict[str, object]:
        """Counters, latency quantiles and cache figures, as plain values."""
        pool, store, tiers = self.engine.runner.pool, self.engine.store, self.engine.tiers
        return {
            **self.engine.metrics.snapshot(),
            "worlds": len(self._worlds),
            "agents": len(self._agents),
            "blocks": len(store),
            "pages": pool.num_pages,
            "pages_free": pool.num_free,
            "blocks_evicted": store.num_evicted,
            **({} if tiers is None else tiers.figures()),
        }


def bundled_folder() -> Path:
    """The model that comes with the package."""
    return Path(str(files("game_agent"))) / "data" / "bundled"

"""Options that several commands have, and the runtime that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import torch
import typer

from game_agent.config import GIB, CacheSettings, EngineSettings
from game_agent.errors import InvalidInput
from game_agent.model.runner import AUTO
from game_agent.runtime import Runtime
from game_agent_kernels.dispatch import set_num_threads

Model = Annotated[
    Optional[str],  # noqa: UP045 — typer on Python 3.11 needs this form
    typer.Option(help="Checkpoint folder or Hub id; default: the bundled model."),
]
Device = Annotated[Optional[str], typer.Option(help="cpu, cuda, …; default: the best.")]  # noqa: UP045
Dtype = Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")]  # noqa: UP045
Weights = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="int8: weights rounded to 8 bits, faster on a CPU; default: as --dtype."),
]
KvDtype = Annotated[
    str,
    typer.Option(
        help="Of cached text on a CPU: float32, bfloat16 (half as large), or auto: "
        "bfloat16 where the processor multiplies it."
    ),
]
Format = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--prompt-format", help="See docs/prompt-formats.md; default: what fits."),
]
Prefix = Annotated[
    str, typer.Option("--prompt-prefix", help='Text before the prompt, as "[Block-Attention]".')
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all.")]
Memory = Annotated[float, typer.Option(help="GiB for cached keys and values.")]
Cache = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--kv-cache", help="Folder that keeps encoded text over restarts."),
]
CacheSize = Annotated[float, typer.Option("--kv-cache-size", help="GiB of files below it.")]
HostMemory = Annotated[
    float, typer.Option("--kv-host", help="GiB of memory beside a GPU's for encoded text.")
]
DefaultMode = Annotated[
    str,
    typer.Option(
        help="block: for block-fine-tuned models; full: for any other; "
        "contextual: for any other, faster after changes and approximate."
    ),
]
Bind = Annotated[
    str, typer.Option(help="Address to listen at; beyond this computer only with keys.")
]
Endpoint = Annotated[str, typer.Option(help="Address of the server.")]
ServerKey = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="server.key, for a server with keys."),
]
ClientKey = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="NAME.key_secret, for a server with keys."),
]
Eager = Annotated[bool, typer.Option(help="Encode what changes in a world while nobody waits.")]
IdleTokens = Annotated[int, typer.Option(help="Most tokens in one step of what nobody waits for.")]
StateFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder for worlds, agents and their memory; default: they are not kept."),
]
KeyFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder made by keygen: only clients whose key is there may connect."),
]
MetricsPort = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Serve /metrics and /healthz at this port of 127.0.0.1."),
]
LimitTexts = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="NAME=NUMBER, a limit of docs/operations.md; may be repeated."),
]
LogFormat = Annotated[str, typer.Option(help="text or json.")]
Verbose = Annotated[bool, typer.Option(help="Log every connection.")]


def load_runtime(
    model: str | None,
    device: str | None,
    dtype: str | None,
    threads: int,
    memory: float,
    mode: str,
    *,
    weights: str | None = None,
    kv_dtype: str | None = AUTO,
    eager: bool = False,
    idle_tokens: int = EngineSettings.idle_tokens,
    prompt_format: str | None = None,
    prompt_prefix: str = "",
    cache: CacheSettings | None = None,
) -> Runtime:
    """A runtime from command line options."""
    if memory <= 0:
        raise InvalidInput("--kv-memory must be positive")
    use_threads(threads)
    default_mode = next((known for known in Runtime.modes if known == mode), None)
    if default_mode is None:
        raise InvalidInput(f"--mode must be one of {', '.join(Runtime.modes)}, not {mode}")
    settings = EngineSettings(kv_memory_bytes=int(memory * 2**30), idle_tokens=idle_tokens)
    return Runtime.load(
        model,
        device=device,
        dtype=dtype,
        weights=weights,
        kv_dtype=kv_dtype,
        settings=settings,
        default_mode=default_mode,
        eager=eager,
        prompt_format=prompt_format,
        prompt_prefix=prompt_prefix,
        kv_cache=cache,
    )


def use_threads(threads: int) -> None:
    """Compute with so many CPU threads; 0 leaves it as it is."""
    if threads > 0:
        torch.set_num_threads(threads)
        set_num_threads(threads)


def cache_settings(folder: Path | None, size: float, host: float) -> CacheSettings | None:
    """Settings from command line options; None if nothing is to be kept."""
    if folder is None and not host:
        return None
    return CacheSettings(folder, int(size * GIB), int(host * GIB))

"""``serve`` and what belongs to a server: ``keygen``, ``top``, ``soak``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.progress import Progress

from game_agent.client import Client, CurveKeys
from game_agent.commands.options import (
    Bind,
    Cache,
    CacheSize,
    ClientKey,
    DefaultMode,
    Device,
    Dtype,
    Eager,
    Endpoint,
    Format,
    HostMemory,
    IdleTokens,
    KeyFolder,
    KvDtype,
    LimitTexts,
    LogFormat,
    Memory,
    MetricsPort,
    Model,
    Prefix,
    ServerKey,
    StateFolder,
    Threads,
    Verbose,
    Weights,
    cache_settings,
    load_runtime,
)
from game_agent.config import GIB, CacheSettings, EngineSettings
from game_agent.errors import InvalidInput, Unavailable
from game_agent.model.runner import AUTO
from game_agent.protocol.limits import Limits
from game_agent.server import ServerSettings
from game_agent.server import serve as run_server
from game_agent.server.logs import set_up_logs
from game_agent.server.security import make_client_keys, make_server_keys
from game_agent.server.settings import DEFAULT_BIND
from game_agent.soak.run import Target, soak
from game_agent.soak.schedule import SoakSettings
from game_agent.top import top


def serve(
    bind: Bind = DEFAULT_BIND,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = None,
    kv_dtype: KvDtype = AUTO,
    threads: Threads = 0,
    kv_memory: Memory = 1.0,
    kv_cache: Cache = None,
    kv_cache_size: CacheSize = CacheSettings.disk_bytes / GIB,
    kv_host: HostMemory = 0.0,
    mode: DefaultMode = "block",
    eager: Eager = False,
    idle_tokens: IdleTokens = EngineSettings.idle_tokens,
    prompt_format: Format = None,
    prompt_prefix: Prefix = "",
    state_dir: StateFolder = None,
    curve_keys: KeyFolder = None,
    metrics_port: MetricsPort = None,
    limit: LimitTexts = None,
    log_format: LogFormat = "text",
    verbose: Verbose = False,
) -> None:
    """Answer game engines over ZeroMQ until interrupted."""
    if log_format not in ("text", "json"):
        raise InvalidInput(f"--log-format must be text or json, not {log_format}")
    set_up_logs(logging.DEBUG if verbose else logging.INFO, is_json=log_format == "json")
    settings = ServerSettings(
        bind=bind,
        state_dir=state_dir,
        curve_keys=curve_keys,
        metrics_port=metrics_port,
        limits=read_limits(limit or []),
    )
    with load_runtime(
        model,
        device,
        dtype,
        threads,
        kv_memory,
        mode,
        weights=weights,
        kv_dtype=kv_dtype,
        eager=eager,
        idle_tokens=idle_tokens,
        prompt_format=prompt_format,
        prompt_prefix=prompt_prefix,
        cache=cache_settings(kv_cache, kv_cache_size, kv_host),
    ) as runtime:
        runtime.touch_memory()
        run_server(runtime, settings)


def read_limits(texts: Sequence[str]) -> Limits:
    """Limits from ``NAME=NUMBER``, the others as they are by default. Raises ``InvalidInput``."""
    given: dict[str, int] = {}
    names = [field.name for field in fields(Limits)]
    for text in texts:
        name, _, number = text.partition("=")
        if name not in names:
            raise InvalidInput(
                f"--limit {text}: there is no such limit; there are {', '.join(names)}"
            )
        if not (number.isascii() and number.isdigit()):
            raise InvalidInput(f"--limit {text}: give it as {name}=NUMBER")
        given[name] = int(number)
    return Limits(**given)


def keygen(
    folder: Annotated[Path, typer.Argument(help="Folder for the keys.")],
    client: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Make keys for a client of this name, and allow it."),
    ] = None,
) -> None:
    """Make the keys of a server, or with --client those of one that may connect to it."""
    if client is None:
        make_server_keys(folder)
        typer.echo(f"give {folder / 'server.key'} to clients; next: keygen {folder} --client NAME")
        return
    secret = make_client_keys(folder, client)
    typer.echo(f"carry {secret} to the client, then delete it here")


def show_top(
    endpoint: Endpoint = DEFAULT_BIND,
    server_key: ServerKey = None,
    client_key: ClientKey = None,
) -> None:
    """Watch a running server until interrupted."""
    if (server_key is None) != (client_key is None):
        raise InvalidInput("--server-key and --client-key belong together")
    keys = None
    if server_key is not None and client_key is not None:
        keys = CurveKeys.load(server_key, client_key)
    with Client(endpoint, timeout_s=5.0, keys=keys) as client, suppress(KeyboardInterrupt):
        top(client, Console())


def run_soak(
    duration: Annotated[float, typer.Option(help="Seconds.")] = SoakSettings().duration_s,
    agents: Annotated[int, typer.Option(help="Characters.")] = SoakSettings().num_agents,
    asks: Annotated[float, typer.Option(help="Asks per second.")] = SoakSettings().asks_per_s,
    ticks: Annotated[float, typer.Option(help="Ticks per second.")] = SoakSettings().ticks_per_s,
    context: Annotated[
        int, typer.Option(help="Tokens of a prompt, about.")
    ] = SoakSettings().context_tokens,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("soak"),
    endpoint: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A running server; default: one is started."),
    ] = None,
    model: Model = None,
) -> None:
    """Load a server with a game's traffic; report latencies, and every reply lost or doubled."""
    settings = SoakSettings(
        duration_s=duration,
        num_agents=agents,
        asks_per_s=asks,
        ticks_per_s=ticks,
        context_tokens=context,
    )
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("soak", total=duration)
        result = soak(
            settings,
            out,
            target=None if endpoint is None else Target(endpoint),
            serve_args=[] if model is None else ["--model", model],
            progress=lambda at_s: progress.update(task, completed=at_s),
        )
    if ttft := result["latencies"].get("ttft"):
        all_asks = ttft["all"]
        typer.echo(f"TTFT p50 {all_asks['p50_ms']} ms, p99 {all_asks['p99_ms']} ms")
    typer.echo(f"see {out / 'soak.html'}")
    if not result["is_clean"]:
        counts = result["counts"]
        raise Unavailable(
            f"not clean: dropped {counts['dropped']}, doubled {counts['doubled']}, "
            f"broken texts {counts['broken_texts']}, errors {counts['errors']}"
        )

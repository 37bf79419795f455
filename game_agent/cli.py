"""The command line: ``game-agent serve``, ``demo``, ``chat``, ``train-bundled``."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Optional

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from game_agent.chat import PROFILE, Chat
from game_agent.client import Client, CurveKeys
from game_agent.config import EngineSettings
from game_agent.engine.request import Mode
from game_agent.errors import GameAgentError, InvalidInput, Unavailable
from game_agent.inspecting import show_partition
from game_agent.runtime import Runtime
from game_agent.server import ServerSettings
from game_agent.server import serve as run_server
from game_agent.server.logs import set_up_logs
from game_agent.server.security import make_client_keys, make_server_keys
from game_agent.soak.run import Target, soak
from game_agent.soak.schedule import SoakSettings
from game_agent.top import top
from game_agent.training.bundled import train_bundled
from game_agent_demos import demo as textworld_demo
from game_agent_kernels.dispatch import set_num_threads

app = typer.Typer(
    help="Game characters that think and speak in real time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    Optional[str],  # noqa: UP045
    typer.Option(help="float32 or bfloat16 for cached text, on a CPU; default: as --dtype."),
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all.")]
Memory = Annotated[float, typer.Option(help="GiB for cached keys and values.")]
DefaultMode = Annotated[
    str, typer.Option(help="block: for block-fine-tuned models; full: for any other.")
]


def load_runtime(
    model: str | None,
    device: str | None,
    dtype: str | None,
    threads: int,
    memory: float,
    mode: str,
    *,
    weights: str | None = None,
    kv_dtype: str | None = None,
    eager: bool = False,
    idle_tokens: int = EngineSettings.idle_tokens,
) -> Runtime:
    """A runtime from command line options."""
    if memory <= 0:
        raise InvalidInput("--kv-memory must be positive")
    if threads > 0:
        torch.set_num_threads(threads)
        set_num_threads(threads)
    default_mode: Mode = "full" if mode == "full" else "block"
    if mode not in Runtime.modes:
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
    )


@app.command()
def serve(
    bind: Annotated[
        str, typer.Option(help="Address to listen at; beyond this computer only with keys.")
    ] = ServerSettings().bind,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = None,
    kv_dtype: KvDtype = None,
    threads: Threads = 0,
    kv_memory: Memory = 1.0,
    mode: DefaultMode = "block",
    eager: Annotated[
        bool, typer.Option(help="Encode what changes in a world while nobody waits.")
    ] = False,
    idle_tokens: Annotated[
        int, typer.Option(help="Most tokens in one step of what nobody waits for.")
    ] = EngineSettings.idle_tokens,
    state_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for worlds, agents and their memory; default: they are not kept."
        ),
    ] = None,
    curve_keys: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder made by keygen: only clients whose key is there may connect."),
    ] = None,
    metrics_port: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Serve /metrics and /healthz at this port of 127.0.0.1."),
    ] = None,
    log_format: Annotated[str, typer.Option(help="text or json.")] = "text",
    verbose: Annotated[bool, typer.Option(help="Log every connection.")] = False,
) -> None:
    """Answer game engines over ZeroMQ until interrupted."""
    if log_format not in ("text", "json"):
        raise InvalidInput(f"--log-format must be text or json, not {log_format}")
    set_up_logs(logging.DEBUG if verbose else logging.INFO, is_json=log_format == "json")
    settings = ServerSettings(
        bind=bind, state_dir=state_dir, curve_keys=curve_keys, metrics_port=metrics_port
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
    ) as runtime:
        run_server(runtime, settings)


@app.command()
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
    typer.echo(f"carry {secret} to the client, then delete it here; restart the server")


@app.command("top")
def show_top(
    endpoint: Annotated[str, typer.Option(help="Address of the server.")] = ServerSettings().bind,
    server_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="server.key, for a server with keys."),
    ] = None,
    client_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="NAME.key_secret, for a server with keys."),
    ] = None,
) -> None:
    """Watch a running server until interrupted."""
    if (server_key is None) != (client_key is None):
        raise InvalidInput("--server-key and --client-key belong together")
    keys = None
    if server_key is not None and client_key is not None:
        keys = CurveKeys.load(server_key, client_key)
    with Client(endpoint, timeout_s=5.0, keys=keys) as client, suppress(KeyboardInterrupt):
        top(client, Console())


@app.command("soak")
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


@app.command()
def demo(
    ticks: Annotated[int, typer.Option(help="How many actions to play.")] = 30,
    seed: Annotated[int, typer.Option(help="Which game to build.")] = 1,
    model: Model = None,
) -> None:
    """Play a TextWorld game and let a companion answer about its world, tick by tick."""
    raise typer.Exit(textworld_demo.run(ticks=ticks, seed=seed, model=model))


@app.command()
def chat(
    model: Model = None,
    name: Annotated[str, typer.Option(help="The character's name.")] = "Mira",
    profile: Annotated[str, typer.Option(help="Who the character is.")] = PROFILE,
    world: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A JSON file with the state of the world; default: a village."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = None,
    kv_dtype: KvDtype = None,
    threads: Threads = 0,
    kv_memory: Memory = 1.0,
    mode: DefaultMode = "block",
) -> None:
    """Talk to a character in the terminal."""
    with load_runtime(
        model, device, dtype, threads, kv_memory, mode, weights=weights, kv_dtype=kv_dtype
    ) as runtime:
        conversation = Chat(runtime, Console(), name=name, profile=profile)
        if world is not None:
            conversation.load_world(read_world(world))
        conversation.run()


@app.command()
def partition(
    file: Annotated[Path, typer.Argument(help="A JSON file with the state of a world.")],
    patch: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A JSON Patch or Merge Patch; what it would encode is marked *."),
    ] = None,
    rules: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Rules of the partition, a JSON array (see docs/protocol.md)."),
    ] = None,
    model: Model = None,
) -> None:
    """Show how a world is cut into blocks, and their tokens."""
    show_partition(Console(), file, patch=patch, rules=rules, model=model)


@app.command("train-bundled")
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")],
    preset: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Time to train; default: the preset's."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in OUT.")] = True,
    causal_only: Annotated[
        bool, typer.Option("--causal-only", help="No block mask: a stand-in for stock models.")
    ] = False,
) -> None:
    """Train the bundled model from scratch on scenes that the project makes."""
    train_bundled(preset, out, minutes=minutes, resume=resume, causal_only=causal_only)


def read_world(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises :class:`InvalidInput` naming the file."""
    try:
        state = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(state, dict):
        raise InvalidInput(f"{path} must hold a JSON object")
    return state


def main() -> None:
    """Entry point: an error is one sentence on stderr and exit status 1."""
    try:
        app()
    except GameAgentError as error:
        typer.echo(f"game-agent: {error.message}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

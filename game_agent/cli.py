"""The command line: ``game-agent serve``, ``demo``, ``chat``, ``train-bundled``."""

from __future__ import annotations

import typer

from game_agent.commands.evaluating import convert_data, run_evaluation
from game_agent.commands.finetuning import finetune
from game_agent.commands.making import partition, train
from game_agent.commands.playing import chat, demo
from game_agent.commands.serving import keygen, run_soak, serve, show_top
from game_agent.errors import GameAgentError

app = typer.Typer(
    help="Game characters that think and speak in real time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(keygen)
app.command("top")(show_top)
app.command("soak")(run_soak)
app.command()(demo)
app.command()(chat)
app.command()(partition)
app.command("train-bundled")(train)
app.command("evaluate")(run_evaluation)
app.command("convert")(convert_data)
app.command()(finetune)


def main() -> None:
    """Entry point: an error is one sentence on stderr and exit status 1."""
    try:
        app()
    except GameAgentError as error:
        typer.echo(f"game-agent: {error.message}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

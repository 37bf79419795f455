"""The command line as a whole: which commands there are, and how an error looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from game_agent import cli
from game_agent.commands.playing import read_world
from game_agent.errors import InvalidInput

COMMANDS = (
    "serve",
    "keygen",
    "top",
    "soak",
    "demo",
    "chat",
    "partition",
    "train-bundled",
    "evaluate",
    "convert",
    "finetune",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_an_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["game-agent", "partition", "nothing.json"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("game-agent: nothing.json cannot be read")


def test_a_world_is_an_object(tmp_path: Path) -> None:
    file = tmp_path / "world.json"
    file.write_text('{"weather": "rain"}', encoding="utf-8")
    assert read_world(file) == {"weather": "rain"}
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(InvalidInput, match="must hold a JSON object"):
        read_world(file)

"""docs/operations.md names every option and limit of a server."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from game_agent.commands.serving import read_limits, serve
from game_agent.errors import InvalidInput
from game_agent.protocol.limits import Limits
from game_agent.server import ServerSettings

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")


@pytest.mark.parametrize("option", inspect.signature(serve).parameters)
def test_every_option_of_serve_is_explained(option: str) -> None:
    assert f"`--{option.replace('_', '-')}" in PAGE


@pytest.mark.parametrize("limit", [field.name for field in fields(Limits)])
def test_every_limit_is_explained(limit: str) -> None:
    assert f"`{limit}`" in PAGE


@pytest.mark.parametrize("name", ["heartbeat_ms", "expiry_ms", "replay_s", "drain_s"])
def test_durations_are_explained(name: str) -> None:
    assert f"`{name}`" in PAGE
    assert name in {field.name for field in fields(ServerSettings)}


def test_limits_are_read_from_the_command_line() -> None:
    assert read_limits([]) == Limits()
    assert read_limits(["max_depth=5", "max_worlds=1"]) == Limits(max_depth=5, max_worlds=1)
    for wrong in ("max_depth", "max_depth=x", "max_depth=-1", "depth=1", "max_depth=0"):
        with pytest.raises(InvalidInput, match="depth"):
            read_limits([wrong])


def test_a_server_in_a_test_works_as_shown() -> None:
    _, found = PAGE.split("```python\n")
    exec(found.split("```")[0], {})

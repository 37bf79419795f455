"""``game-agent partition``."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from game_agent.agents.rules import parse_rules
from game_agent.errors import InvalidInput
from game_agent.inspecting import cut_rows, show_partition, summary

STATE = {"weather": "rain", "houses": {f"house {i}": {"story": "old " * 40} for i in range(4)}}


def test_a_patch_marks_what_it_encodes() -> None:
    rows = cut_rows(STATE, len)
    assert [row.path for row in rows][:2] == ["/weather", "/houses/house 0"]
    assert all(row.num_tokens == len(row.text) and not row.is_new for row in rows)
    assert summary(rows, is_patched=False) == f"5 blocks, {sum(len(r.text) for r in rows)} tokens"
    patch = [{"op": "replace", "path": "/houses/house 2/story", "value": "new " * 40}]
    (new,) = [row for row in cut_rows(STATE, len, patch) if row.is_new]
    assert new.path == "/houses/house 2"
    rows = cut_rows(STATE, len, {"weather": None})
    assert len(rows) == 4
    assert summary(rows, is_patched=True).endswith("; the patch encodes 0 of them, 0 tokens")


def test_a_twin_of_an_old_block_is_new() -> None:
    patch = [{"op": "add", "path": "/all/-", "value": "note " * 30}]
    state = {"all": ["note " * 30]}
    rows = cut_rows(state, len, patch, parse_rules([{"path": "/all", "do": "split"}]))
    assert [row.is_new for row in rows] == [False, True]


def test_files_are_shown(tmp_path: Path, tiny_checkpoint: Path) -> None:
    files = {"world": STATE, "patch": {"weather": "[red]sun"}, "rules": [], "bad": [1]}
    paths = {name: tmp_path / f"{name}.json" for name in files}
    for name, value in files.items():
        paths[name].write_text(json.dumps(value), encoding="utf-8")
    out = io.StringIO()
    console = Console(file=out, width=200)
    model = str(tiny_checkpoint)
    show_partition(console, paths["world"], patch=paths["patch"], rules=paths["rules"], model=model)
    assert "world: weather: [red]sun." in out.getvalue()
    assert "the patch encodes 1 of them" in out.getvalue()
    for arguments in (
        {"file": paths["bad"], "patch": None, "rules": None},
        {"file": tmp_path / "nothing.json", "patch": None, "rules": None},
        {"file": paths["world"], "patch": None, "rules": paths["world"]},
        {"file": paths["world"], "patch": paths["bad"], "rules": None},
    ):
        with pytest.raises(InvalidInput):
            show_partition(console, model=model, **arguments)  # type: ignore[arg-type]


def test_tokens_are_those_of_the_prompt_format(tmp_path: Path, tiny_checkpoint: Path) -> None:
    file = tmp_path / "world.json"
    file.write_text(json.dumps(STATE), encoding="utf-8")
    shown = []
    for prompt_format in (None, "tulu3-block"):
        out = io.StringIO()
        show_partition(
            Console(file=out, width=200),
            file,
            patch=None,
            rules=None,
            model=str(tiny_checkpoint),
            prompt_format=prompt_format,
        )
        shown.append(out.getvalue().splitlines()[-1])
    num_plain, num_tulu = (int(line.split()[2]) for line in shown)
    # A byte is a token: "- " and a line end instead of one special token, in each of 5 blocks.
    assert num_tulu == num_plain + 5 * 2

"""Imports run downwards only, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each room may import of the project, besides itself and the foundations.
FOUNDATIONS = {"errors", "config", "clock", "metrics", "stopping", "writing"}
ALLOWED: dict[str, set[str]] = {
    "intervals": set(),
    "text": set(),
    "blocks": {"kernels"},
    "model": {"blocks", "text", "kernels"},
    "engine": {"model", "blocks", "text", "kernels"},
    "agents": {"engine", "blocks", "text"},
    "runtime": {"agents", "engine", "model"},
    "protocol": set(),
    "client": {"protocol"},
    "server": {"protocol", "runtime", "agents"},
    "training": {"agents", "text", "model", "runtime", "intervals"},
    "finetuning": {"agents", "text", "model"},
    "evaluation": {
        "agents",
        "engine",
        "model",
        "blocks",
        "text",
        "runtime",
        "training",
        "intervals",
    },
    "inspecting": {"agents", "text", "model", "runtime"},
    "chat": {"runtime", "agents"},
    "soak": {"protocol", "client"},
    "top": {"client"},
    "commands": {
        "chat",
        "client",
        "finetuning",
        "model",
        "server",
        "soak",
        "top",
        "runtime",
        "engine",
        "training",
        "evaluation",
        "demos",
        "inspecting",
        "protocol",
    }
    | {"kernels"},
    "cli": {"commands"},
    "demos": {"client", "runtime", "server", "agents"},
    "bench": {
        "agents",
        "server",
        "soak",
        "client",
        "runtime",
        "engine",
        "model",
        "blocks",
        "text",
        "training",
        "evaluation",
        "demos",
        "kernels",
    },
    **dict.fromkeys(FOUNDATIONS, FOUNDATIONS),
}


def modules() -> Iterator[tuple[str, Path]]:
    """(room, file) of every module but the package's lazy front door."""
    for path in (ROOT / "game_agent").rglob("*.py"):
        parts = path.relative_to(ROOT / "game_agent").parts
        if parts != ("__init__.py",):
            yield parts[0].removesuffix(".py"), path
    for room in ("demos", "bench"):
        for path in (ROOT / room).rglob("*.py"):
            yield room, path


MODULES = list(modules())


def imported_rooms(path: Path) -> Iterator[str]:
    """Rooms of the project that a module imports at run time."""
    for node in module_level(ast.parse(path.read_text("utf-8"))):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
        for name in names:
            head, _, rest = name.partition(".")
            if head == "game_agent":
                yield rest.partition(".")[0] or "runtime"
            elif head == "game_agent_kernels":
                yield "kernels"
            elif head == "game_agent_demos":
                yield "demos"


def module_level(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


@pytest.mark.parametrize(("room", "path"), MODULES, ids=lambda v: getattr(v, "name", v))
def test_imports_run_downwards(room: str, path: Path) -> None:
    allowed = ALLOWED[room] | FOUNDATIONS | {room}
    assert set(imported_rooms(path)) <= allowed


@pytest.mark.parametrize(("room", "path"), MODULES, ids=lambda v: getattr(v, "name", v))
def test_imports_stand_at_module_level(room: str, path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    inner = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    guarded = [
        n
        for node in tree.body
        if isinstance(node, ast.If | ast.Try)
        for n in ast.walk(node)
        if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    assert len(inner) == len(list(module_level(tree))) + len(guarded)


def test_kernels_know_nothing_of_the_package() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "game_agent" for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != "game_agent"

"""What ``make prove`` runs: all of it, whatever fails, and after an interruption the rest."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import pytest

from bench import prove

ROOT = Path(__file__).parent.parent
OPTIONS = argparse.Namespace(anew=False, list=False, only=None, limit_minutes=1.0)
RIGHT = ("-c", "print('well')")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX process groups")


def results(folder: Path) -> dict[str, str]:
    told = json.loads((folder / "steps.json").read_text("utf-8"))
    return {name: fields["result"] for name, fields in told.items()}


def mark(path: Path) -> tuple[str, ...]:
    """A step that leaves a line in a file."""
    return ("-c", f"open({str(path)!r}, 'a').write('x')")


def test_a_step_that_fails_does_not_hide_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = ("-c", "print('ouch'); raise SystemExit(3)")
    steps = {"one": mark(tmp_path / "one"), "two": bad, "three": mark(tmp_path / "three")}
    assert prove.prove(steps, OPTIONS, tmp_path, ROOT) == 1
    assert results(tmp_path) == {"one": "right", "two": "status 3", "three": "right"}
    assert (tmp_path / "two.log").read_text("utf-8") == "ouch\n"
    assert "status 3" in capfd.readouterr().out
    # The second time only what failed is run, and then all is forgotten.
    steps["two"] = mark(tmp_path / "two")
    assert prove.prove(steps, OPTIONS, tmp_path, ROOT) == 0
    assert [(tmp_path / name).read_text("utf-8") for name in steps] == ["x", "x", "x"]
    assert results(tmp_path) == {}


def test_what_was_right_is_run_again_when_asked_for(tmp_path: Path) -> None:
    only = argparse.Namespace(**{**vars(OPTIONS), "only": "one"})
    anew = argparse.Namespace(**{**vars(only), "anew": True})
    steps = {"one": mark(tmp_path / "one")}
    for options, times in ((only, 1), (only, 1), (anew, 2)):
        assert prove.prove(steps, options, tmp_path, ROOT) == 0
        assert (tmp_path / "one").read_text("utf-8") == "x" * times


def test_a_step_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(child)!r}, 'w').write(str(p.pid)); p.wait()"
    )
    begun = time.monotonic()
    assert prove.run_step(("-c", code), tmp_path / "log", 3.0, ROOT) == prove.TOO_LONG
    assert time.monotonic() - begun < 30
    pid = int(child.read_text())
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.05)
    pytest.fail("its child is still there")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that nobody has waited for, as in a container without an init, is dead as well.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_patterns_stand_for_models_and_not_for_what_lies_beside_them(tmp_path: Path) -> None:
    words = ("bench/x.py", "--model", "runs/block-[0-9]*")
    assert prove.expanded(words, tmp_path) is None
    assert prove.run_step(words, tmp_path / "log", 1.0, tmp_path) == prove.LEFT_OUT
    for name in ("block-0", "block-2", "block-0-training", "block-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "block-0.log").touch()
    found = prove.expanded(words, tmp_path)
    assert found == ["bench/x.py", "--model", *(f"runs/block-{i}" for i in range(3))]


def test_what_is_left_out_is_told_and_is_no_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = {"one": RIGHT, "two": ("bench/x.py", "runs/none-*")}
    assert prove.prove(steps, OPTIONS, tmp_path, ROOT) == 0
    assert "left out" in capfd.readouterr().out


@pytest.mark.parametrize("name", prove.STEPS)
def test_the_steps_are_there_and_have_the_options_that_they_are_given(name: str) -> None:
    first, *words = prove.STEPS[name]
    if first == "-m":
        return
    source = (ROOT / first).read_text("utf-8")
    for option in [word for word in words if word.startswith("--")]:
        assert f'"{option}"' in source or f"    {option.lstrip('-')}: " in source

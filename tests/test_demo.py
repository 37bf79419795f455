"""The whole demo: both processes, a real server, a model with random weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from game_agent.errors import InvalidInput, Unavailable
from game_agent_demos import demo

pytest.importorskip("textworld")
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _from_the_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    roots = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "demos")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(roots))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_it_plays_and_ends_by_itself(
    tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert demo.run(ticks=2, seed=4, model=str(tiny_checkpoint), tick_s=0.0) == 0
    out = capfd.readouterr().out
    assert "tick 2 " in out
    assert "2 ticks in " in out


def test_a_server_that_cannot_start_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"the server ended with exit status 1:\n.*nowhere"):
        demo.run(ticks=1, model=str(tmp_path / "nowhere"), tick_s=0.0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX process groups")
@pytest.mark.parametrize(
    ("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_stopped_midway_it_leaves_no_process_behind(
    tiny_checkpoint: Path, stop: signal.Signals, status: int
) -> None:
    run = f"demo.run(model={str(tiny_checkpoint)!r})"
    code = f"from game_agent_demos import demo; raise SystemExit({run})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    with process:
        next(line for line in process.stdout if line.startswith("tick 2 "))
        # In a terminal Ctrl-C goes to all processes; others send SIGTERM to the first alone.
        (os.killpg if stop is signal.SIGINT else os.kill)(process.pid, stop)
        rest = process.stdout.read()
        assert process.wait(timeout=30) == status
    assert stop is signal.SIGTERM or "answers agree" in rest
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInput, match="--ticks"):
        demo.run(ticks=0)
    with pytest.raises(InvalidInput, match="--seed"):
        demo.run(seed=-1)

"""Block fine-tuning as programs: two at once, and one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
COMMAND = ["-m", "game_agent.cli", "finetune"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and network interface of Linux"),
]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    data = tmp_path / "rooms.jsonl"
    room = {"blocks": ["inn: rooms: 3.", "mill: rooms: 5."], "question": "inn?", "answer": "3"}
    lines = [json.dumps({**room, "answer": str(n) * (n + 1)}) for n in range(9)]
    data.write_text("\n".join(lines), "utf-8")
    model = make_checkpoint(tmp_path / "model")
    given = {"--data": data, "--steps": 8, "--max-tokens": 96, "--learning-rate": 1e-3}
    return [str(model), *(str(part) for pair in given.items() for part in pair), "--cpu"]


def environment() -> dict[str, str]:
    """Of a program: one thread, and the packages of this source tree."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "demos")]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def log(out: Path, event: str = "step") -> list[dict[str, Any]]:
    text = (out.with_name(f"{out.name}-training") / "log.jsonl").read_text("utf-8")
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


def test_two_processes_learn_what_one_does(tmp_path: Path, options: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(*COMMAND, *options, "--rows", "4", "--out", str(one))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run(*launch, *COMMAND, *options, "--rows", "2", "--out", str(two))
    assert log(two, "start")[0]["processes"] == 2
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    before = load_file(tmp_path / "model" / "model.safetensors")
    for name, weight in weights[0].items():
        assert not torch.equal(weight, before[name])
        assert torch.allclose(weight, weights[1][name], atol=1e-4), name
    for first, second in zip(log(one), log(two), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)


def test_a_killed_run_leaves_nothing_half_written(tmp_path: Path, options: list[str]) -> None:
    """Killed at several moments, a checkpoint being written at most of them, it still ends as one
    that was left alone."""
    options = [*options, "--rows", "2", "--save-every", "1", "--steps", "80"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(*COMMAND, *options, "--out", str(whole))
    work = killed.with_name("killed-training")
    for step in (10, 30, 55):
        program = subprocess.Popen(
            [sys.executable, *COMMAND, *options, "--out", str(killed)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while program.poll() is None and not _reached(work, step):
                time.sleep(0.005)
        finally:
            program.send_signal(signal.SIGKILL)
            program.wait()
        assert program.returncode == -signal.SIGKILL, "it ended before it was killed"
        assert not killed.exists()
    run(*COMMAND, *options, "--out", str(killed))
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["step"] for line in log(killed)] == list(range(1, 81))


def _reached(work: Path, step: int) -> bool:
    return any(int(path.name.split("-")[1].split(".")[0]) >= step for path in work.glob("check*"))

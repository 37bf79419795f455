"""The trainings behind the ablation: what is asked for, and what is there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import trainings


def test_a_chain_asks_for_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(trainings, "run", lambda log, *words: asked.append([*map(str, words)]))
    both, causal = trainings.jobs(tmp_path, 3, 5000)
    both()
    (words,) = asked
    assert (
        words[2:]
        == (
            "game_agent.cli train-bundled --preset cpu --seed 3 --tokens 5000 --no-measure "
            f"--out {tmp_path / 'block-3'}"
        ).split()
    )
    asked.clear()
    (tmp_path / "causal-3").mkdir()
    (tmp_path / "causal-3" / "config.json").touch()
    causal()
    data, fine, control = asked
    assert data[1:] == [str(trainings.TWIN), "--out", str(tmp_path / "data-3"), "--seed", "3"]
    assert fine[3:5] == ["finetune", str(tmp_path / "causal-3")]
    assert fine[-2:] == ["--out", str(tmp_path / "fine-3")]
    assert "--masks full" in " ".join(control)
    assert "--masks" not in fine


def test_a_failure_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "it.log"
    with pytest.raises(SystemExit, match=r"ended with 2; its words: .*it\.log"):
        trainings.run(log, "sh", "-c", "echo why; exit 2")
    assert log.read_text("utf-8") == "why\n"

"""The trainings behind the ablation: what is asked for, and what is there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import trainings


def test_what_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(trainings, "run", lambda log, *words: asked.append([*map(str, words)]))
    trainings.train(tmp_path / "causal", 5000)
    (words,) = asked
    assert (
        words[2:]
        == (
            "game_agent.cli train-bundled --preset cpu --tokens 5000 --no-measure --causal-only "
            f"--out {tmp_path / 'causal'}"
        ).split()
    )
    asked.clear()
    trainings.finetune(tmp_path, 3)
    data, block, control = asked
    assert data[1:] == [str(trainings.TWIN), "--out", str(tmp_path / "data-3"), "--seed", "3"]
    for words, name in ((block, "block-3"), (control, "control-3")):
        assert words[3:5] == ["finetune", str(tmp_path / "causal")]
        assert words[-2:] == ["--out", str(tmp_path / name)]
        assert words[words.index("--seed") + 1] == "3"
    assert "--masks full" in " ".join(control)
    assert "--masks" not in block
    asked.clear()
    (tmp_path / "block-3").mkdir()
    (tmp_path / "block-3" / "config.json").touch()
    trainings.finetune(tmp_path, 3)
    assert [words[2] for words in asked] == ["--out", "game_agent.cli"], "data and the control"


def test_a_failure_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "it.log"
    with pytest.raises(SystemExit, match=r"ended with 2; its words: .*it\.log"):
        trainings.run(log, "sh", "-c", "echo why; exit 2")
    assert log.read_text("utf-8") == "why\n"

"""The ablation over several trainings, as ``bench/ablation.py`` asks them and tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import make_checkpoint

from bench import ablation
from game_agent.evaluation.asking import Replying
from game_agent.evaluation.run import Loading, Settings


def test_several_trainings_share_a_file_of_answers(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Settings(Loading(kv_memory_bytes=2**24), Replying(max_tokens=2))
    monkeypatch.setattr(ablation, "SETTINGS", few)
    monkeypatch.setitem(ablation.WAYS, "block-ft", "block,full")
    trained = {"block-ft": [tiny_checkpoint, make_checkpoint(tmp_path / "other", seed=1)]}
    records = ablation.make_records([1], [2, 3], 1, 2)
    path = tmp_path / "answers.jsonl"
    answers = ablation.ask(trained, records, path)
    assert len({(answer.way, answer.id) for answer in answers}) == len(answers) == 2 * 2 * 4
    before = path.read_bytes()
    assert ablation.ask(trained, records, path) == answers
    assert path.read_bytes() == before
    both = [each for k in range(2) for each in ablation.of_training(k, records)]
    text = ablation.report(answers, both, "A note.")
    assert "| block-ft | full | 8 |" in text
    for line in ("training 0 | 4 |", "training 1 | 4 |", "2 blocks | 4 |", "seed 1 | 8 |"):
        assert line in text

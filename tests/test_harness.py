"""The adapter for lm-evaluation-harness, with the harness itself; skipped where it is missing."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's own
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lm_eval.api.instance import Instance
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedTokenizerFast

    from game_agent.errors import InvalidInput
    from game_agent.evaluation.harness import GameAgentLM

FEW_SHOT = "Q: 1?\nA: one\n\nQ: 2?\nA: two\n\nQ: 3?\nA:"
WRITE = """\
task: colours_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}, train: {file}}}}}
test_split: test
fewshot_split: train
num_fewshot: 2
output_type: generate_until
doc_to_text: "Question: {{{{q}}}}\\nAnswer:"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOOSE = """\
task: colours_choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}, train: {file}}}}}
test_split: test
fewshot_split: train
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "Question: {{{{q}}}}\\nAnswer:"
doc_to_choice: [red, green, blue]
doc_to_target: "{{{{a}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, given, index) for index, given in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path) -> Path:
    path = tiny_checkpoint / "tokenizer_config.json"
    path.write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}', "utf-8"
    )
    return tiny_checkpoint


@pytest.fixture(scope="module")
def full(folder: Path) -> Iterator[GameAgentLM]:
    model = GameAgentLM(str(folder), "full", device="cuda:0", kv_memory=0.02)
    yield model
    model.close()


@pytest.fixture(scope="module")
def hugging_face(folder: Path) -> HFLM:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return HFLM(
        pretrained=str(folder), tokenizer=tokenizer, dtype=torch.float32, device="cpu", batch_size=1
    )


def test_full_mode_scores_as_hugging_face(full: GameAgentLM, hugging_face: HFLM) -> None:
    pairs = [(FEW_SHOT, " three"), (FEW_SHOT * 3, " no"), ("A ", "b"), ("", "Begin.")]
    ours = full.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    theirs = hugging_face.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    for (log_prob, is_greedy), (expected, was_greedy) in zip(ours, theirs, strict=True):
        assert log_prob == pytest.approx(expected, abs=1e-3)
        assert is_greedy == was_greedy


def test_block_mode_reads_examples_alone(folder: Path, full: GameAgentLM) -> None:
    block = GameAgentLM(str(folder), mode="block", kv_memory=0.02, batch_size="2")
    pairs = [("A lone question:", " x"), (FEW_SHOT, " x"), (FEW_SHOT * 2, " x")]
    asked = instances("loglikelihood", *pairs)
    alone, *ours = block.loglikelihood(asked, disable_tqdm=True)
    same, *theirs = full.loglikelihood(asked, disable_tqdm=True)
    assert alone[0] == pytest.approx(same[0], abs=1e-4)
    assert all(abs(a[0] - b[0]) > 1e-3 for a, b in zip(ours, theirs, strict=True))
    block.close()


def test_whole_texts_score_as_hugging_face(full: GameAgentLM, hugging_face: HFLM) -> None:
    texts = [("One text.",), (FEW_SHOT * 20,)]
    ours = full.loglikelihood_rolling(instances("loglikelihood_rolling", *texts), disable_tqdm=True)
    theirs = hugging_face.loglikelihood_rolling(
        instances("loglikelihood_rolling", *texts), disable_tqdm=True
    )
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_replies_are_hugging_faces(full: GameAgentLM, hugging_face: HFLM) -> None:
    goal = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False}
    asked = [(FEW_SHOT, goal), (FEW_SHOT * 2, goal)]
    ours = full.generate_until(instances("generate_until", *asked), disable_tqdm=True)
    theirs = hugging_face.generate_until(instances("generate_until", *asked), disable_tqdm=True)
    assert ours == theirs


@pytest.mark.parametrize("mode", ["block", "full"])
def test_tasks_on_local_files(folder: Path, tmp_path: Path, mode: str) -> None:
    colours = ["red", "green", "blue"]
    rows = [{"q": f"Colour {i}?", "a": colours[i % 3]} for i in range(12)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for name, task in (("write", WRITE), ("choose", CHOOSE)):
        (tmp_path / f"{name}.yaml").write_text(task.format(file=file), "utf-8")
    results = simple_evaluate(
        model="game-agent",
        model_args={"pretrained": str(folder), "mode": mode, "kv_memory": 0.02},
        tasks=["colours_write", "colours_choose"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        limit=5,
        log_samples=True,
    )
    assert 0 <= results["results"]["colours_choose"]["acc,none"] <= 1
    assert results["results"]["colours_write"]["exact_match,none"] == 0
    (first, *_) = results["samples"]["colours_choose"]
    assert first["arguments"][0][0].count("Question:") == 3


def test_the_mode_is_one_of_those_there_are(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="mode must be one of block, full, unmoved"):
        GameAgentLM(str(folder), mode="contextual")

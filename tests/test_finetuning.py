"""Block fine-tuning from beginning to end, on tiny models."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from checkpoints import make_checkpoint, oracle
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.errors import InvalidInput, ModelError, TrainingError
from game_agent.finetuning import room, training
from game_agent.finetuning.finetune import finetune
from game_agent.finetuning.settings import Settings
from game_agent.model.runner import load_runner
from game_agent.text.choosing import RECORD

# peft asks transformers for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is:FutureWarning")


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Its state is the process's: another test may want another precision."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


ROOMS = [
    {
        "blocks": [f"inn: rooms: {n}.", f"mill: rooms: {9 - n}."],
        "question": "inn?",
        "answer": str(n),
    }
    for n in range(10)
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    data = tmp_path / "rooms.jsonl"
    data.write_text("".join(json.dumps(room) + "\n" for room in ROOMS), "utf-8")
    model = make_checkpoint(tmp_path / "model")
    return Settings(
        model,
        tmp_path / "out",
        (data,),
        steps=6,
        rows=2,
        max_tokens=96,
        learning_rate=3e-3,
        save_every=2,
        evaluate_every=0,
        cpu=True,
    )


def run(settings: Settings, *, resume: bool = True) -> dict[str, torch.Tensor]:
    """The weights that a silent run leaves."""
    finetune(settings, resume=resume, console=Console(quiet=True))
    return load_file(settings.out / "model.safetensors")


def log(settings: Settings, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (settings.work / "log.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["event"] == event]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_it_learns_and_the_runtime_answers(settings: Settings) -> None:
    settings = replace(settings, steps=60, held_out=settings.data, evaluate_every=30)
    run(settings)
    steps, measured = log(settings, "step"), log(settings, "evaluation")
    assert [line["step"] for line in steps] == list(range(1, 61))
    assert [line["step"] for line in measured] == [0, 30, 60]
    for mode in ("block", "full"):
        assert measured[-1][mode]["loss"] < 0.2 < measured[0][mode]["loss"]
        assert measured[-1][mode]["exact"] == 1 > measured[0][mode]["exact"]
    runner = load_runner(settings.out, kv_memory_bytes=2**22)
    engine, encoder = Engine(runner), runner.encoder
    for each in ROOMS:
        blocks = [Block(encoder.block(t, first=not i)) for i, t in enumerate(each["blocks"])]
        for mode in ("block", "full"):
            request = Request(tuple(blocks), encoder.event("inn?"), mode=mode, max_tokens=4)  # type: ignore[arg-type]
            (done,) = engine.run([request])
            assert (done.text, done.finish_reason) == (each["answer"], "stop")
    engine.close()


def test_the_folder_is_like_the_one_before(settings: Settings) -> None:
    settings = replace(settings, prompt_format="tulu3-block", prompt_prefix="Play. ")
    (settings.model / "generation_config.json").write_text('{"eos_token_id": 4}', "utf-8")
    (settings.model / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    weights = run(settings)
    before = load_file(settings.model / "model.safetensors")
    assert weights.keys() == before.keys()
    for name in ("config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (settings.out / name).read_bytes() == (settings.model / name).read_bytes()
    names = {path.name for path in settings.out.iterdir()}
    assert names == {path.name for path in settings.model.iterdir()} | {"README.md", RECORD}
    # It is asked as it was trained, without a setting.
    asked = load_runner(settings.out, kv_memory_bytes=2**20, device="cpu").encoder.format
    assert asked.text(["A."], "B?").startswith("Play. <|user|>\nA.")
    assert "game-agent serve" in (settings.out / "README.md").read_text("utf-8")
    assert not settings.out.with_name("out.part").exists()
    with pytest.raises(InvalidInput, match="exists already"):
        run(settings)


class Killed(Exception):
    """Stands for the end of the process."""


def killed_at(monkeypatch: pytest.MonkeyPatch, settings: Settings, last: int) -> None:
    """A run that ends before step ``last``."""
    step = training.Training._step

    def failing(self: training.Training, number: int, groups: list[list[int]]) -> bool:
        if number == last:
            raise Killed
        return step(self, number, groups)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_step", failing)
        with pytest.raises(Killed):
            run(settings)
    # What a kill while a checkpoint is written leaves.
    (settings.work / "checkpoint-00000099.part").mkdir()


@pytest.mark.parametrize("lora_rank", [0, 4], ids=["all weights", "lora"])
def test_a_resumed_run_is_the_uninterrupted_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, lora_rank: int
) -> None:
    settings = replace(
        settings, lora_rank=lora_rank, lora_dropout=0.1, held_out=settings.data, evaluate_every=2
    )
    whole = replace(settings, out=settings.out.with_name("whole"))
    expected = run(whole)
    killed_at(monkeypatch, settings, 5)
    assert not settings.out.exists()
    assert len(log(settings, "step")) == 5
    AcceleratorState._reset_state(True)
    assert same(run(settings), expected)
    assert [path.name for path in settings.work.glob("checkpoint-*")] == ["checkpoint-00000004"]
    for event in ("start", "step", "evaluation"):
        kept = [
            [
                {k: v for k, v in line.items() if k not in ("tokens_per_s", "settings")}
                for line in log(each, event)
            ]
            for each in (settings, whole)
        ]
        assert kept[0] == kept[1]


def test_a_run_goes_on_only_as_it_began(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(monkeypatch, settings, 3)
    other = replace(settings, learning_rate=1e-3)
    with pytest.raises(InvalidInput, match="learning_rate was 0.003, is 0.001"):
        run(other)
    with settings.data[0].open("a") as file:
        file.write(json.dumps(ROOMS[0]) + "\n")
    with pytest.raises(InvalidInput, match="data was"):
        run(settings)
    run(other, resume=False)
    assert len(log(other, "step")) == other.steps


def test_bad_data_stops_before_anything_is_written(settings: Settings) -> None:
    data = settings.data[0]
    with data.open("a") as file:
        file.write('{"blocks": ["a"], "question": "b"}\n{"blocks": [}\n')
    with pytest.raises(InvalidInput, match=r"line 11: answer is missing \(2 of 12 records are bad"):
        run(settings)
    assert not settings.work.exists()
    assert not settings.out.exists()
    run(replace(settings, on_bad_data="skip"))
    assert [line["where"] for line in log(settings, "skipped")] == [
        f"{data}, line 11",
        f"{data}, line 12",
    ]
    assert log(settings, "start")[0]["skipped"] == 2
    assert "2 bad records left out" in (settings.out / "README.md").read_text("utf-8")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_lora_merged_is_the_adapter_on_the_model(settings: Settings, family: str) -> None:
    model = make_checkpoint(settings.model.with_name(family), family)
    settings = replace(settings, model=model, lora_rank=4, learning_rate=1e-2)
    merged = run(settings)
    kept = replace(settings, merge=False, out=settings.out.with_name("adapter"))
    AcceleratorState._reset_state(True)
    finetune(kept, console=Console(quiet=True))
    names = {path.name for path in kept.out.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    state = PeftModel.from_pretrained(base, kept.out).merge_and_unload().state_dict()
    assert same(merged, state)
    changed = {name for name in state if not torch.equal(before[name], state[name])}
    assert changed == {name for name in state if "proj" in name}


def test_tied_embeddings_stay_tied(settings: Settings) -> None:
    model = make_checkpoint(settings.model.with_name("tied"), tie_word_embeddings=True)
    weights = run(replace(settings, model=model))
    assert "lm_head.weight" not in weights
    got = oracle(settings.out)
    assert torch.equal(got.lm_head.weight, weights["model.embed_tokens.weight"])
    load_runner(settings.out, kv_memory_bytes=2**20)


def test_the_dtype_stays(settings: Settings) -> None:
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.bfloat16)
    model.save_pretrained(settings.model)
    weights = run(replace(settings, dtype="bfloat16"))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_less_memory_gives_the_same(settings: Settings) -> None:
    expected = run(settings)
    less = replace(settings, checkpointing=True, out=settings.out.with_name("less"))
    assert same(run(less), expected)


def test_masks_differ(settings: Settings) -> None:
    settings = replace(settings, steps=2)
    both, block, full = (
        replace(settings, masks=masks, out=settings.out.with_name(masks))  # type: ignore[arg-type]
        for masks in ("both", "block", "full")
    )
    weights = [run(both)]
    for each in (block, full):
        AcceleratorState._reset_state(True)
        weights.append(run(each))
    assert not any(same(weights[i], weights[i - 1]) for i in range(3))
    # The first step's losses are those of the model before it: of each mask alone as of both.
    (first, *_) = log(both, "step")
    assert first["loss"]["block"] == pytest.approx(log(block, "step")[0]["loss"]["block"])
    assert first["loss"]["full"] == pytest.approx(log(full, "step")[0]["loss"]["full"])
    assert log(block, "step")[0]["loss"].keys() == {"block"}


def test_the_rate_rises_and_falls(settings: Settings) -> None:
    settings = replace(settings, steps=100, warm_up=0.1, learning_rate=1.0)
    for schedule in ("linear", "cosine"):
        rates = [replace(settings, schedule=schedule).rate(step) for step in range(100)]  # type: ignore[arg-type]
        assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert rates[10] == 1
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert 0 < rates[-1] < 0.02
    assert replace(settings, warm_up=0.0).rate(0) == 1
    assert replace(settings, learning_rate=None).top_rate == 2e-5
    assert replace(settings, learning_rate=None, lora_rank=8).top_rate == 2e-4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("masks", "all", "masks must be one of both, block, full"),
        ("dtype", "float16", "dtype must be one of float32, bfloat16"),
        ("attention", "eager", "attention must be one of"),
        ("attention", "flex_attention", "cannot learn on a CPU"),
        ("steps", 0, "steps must be at least 1"),
        ("learning_rate", 0.0, "top_rate must be positive"),
        ("learning_rate", float("nan"), "top_rate must be positive"),
        ("warm_up", 1.0, "warm_up must lie between"),
        ("save_every", -1, "save_every must not be negative"),
        ("data", (), "there is no data"),
        ("max_tokens", 20_000, "does not fit the model"),
    ],
)
def test_settings_that_make_no_sense(
    settings: Settings, name: str, value: object, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        run(replace(settings, **{name: value}))  # type: ignore[arg-type]


def test_a_missing_package_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(InvalidInput, match=r"pip install 'game-agent\[finetune\]'"):
        run(settings)


def test_a_run_that_is_told_to_stop_goes_on_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, save_every=0)
    whole = replace(settings, out=settings.out.with_name("whole"))
    expected = run(whole)
    report = training.Training._report

    def stopping(self: training.Training, step: int, *values: Any) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        report(self, step, *values)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_report", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    (checkpoint,) = settings.work.glob("checkpoint-*")
    # It is asked at the end of a step, and had come after that of the third.
    assert checkpoint.name == "checkpoint-00000004"
    assert not settings.out.exists()
    AcceleratorState._reset_state(True)
    assert same(run(settings), expected)


@contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """No file can be larger."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named(settings: Settings) -> None:
    with (
        small_disk(20_000),
        pytest.raises(TrainingError, match=r"checkpoint.* could not be"),
    ):
        run(settings)
    AcceleratorState._reset_state(True)
    with small_disk(20_000), pytest.raises(TrainingError, match="out.* could not be written"):
        run(replace(settings, save_every=0))
    assert not settings.out.exists()
    AcceleratorState._reset_state(True)
    run(settings)
    assert sorted(path.name for path in settings.out.parent.glob("out*")) == ["out", "out-training"]


def test_a_disk_that_is_too_small_is_named_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_free_bytes", lambda folder: 10_000)
    with pytest.raises(InvalidInput, match=r"2 checkpoints .*--save-every 0"):
        run(settings)
    assert not (settings.work / "log.jsonl").exists()
    AcceleratorState._reset_state(True)
    monkeypatch.setattr(room, "_free_bytes", lambda folder: 10**9)
    run(settings)


def test_a_loss_that_is_no_number_ends_it(settings: Settings) -> None:
    weights = load_file(settings.model / "model.safetensors")
    weights["lm_head.weight"][:] = float("nan")
    save_file(weights, settings.model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="not a number after step 1"):
        run(settings)
    assert not list(settings.work.glob("checkpoint-*"))


def test_little_memory_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(training, "reply_logits", too_much)
    with pytest.raises(TrainingError, match=r"\(CUDA out of memory\)\. A smaller --max-tokens"):
        run(settings)


def test_half_a_checkpoint_is_refused(settings: Settings) -> None:
    path = settings.model / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"], weights["lm_head.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight and 1 more"):
        run(settings)
    path.write_bytes(path.read_bytes()[:1000])
    AcceleratorState._reset_state(True)
    with pytest.raises(ModelError, match="cannot be loaded"):
        run(settings)


def test_in_a_file_steps_are_lines(settings: Settings) -> None:
    file = io.StringIO()
    held_out = settings.data[0].with_name("held.jsonl")
    held_out.write_text(json.dumps(ROOMS[0]) + "\n" + json.dumps({**ROOMS[1], "question": "mill?"}))
    finetune(replace(settings, held_out=(held_out,)), console=Console(file=file, width=40))
    lines = file.getvalue().splitlines()
    assert "1 held-out questions are also learned from: they measure nothing new" in lines
    assert "10 samples, 6 steps on 1 × cpu, float32 products" in lines
    assert [line for line in lines if line.startswith("step 1 of 6: loss block ")]
    assert lines[-1] == f"wrote {settings.out}"
    assert not any("━" in line for line in lines)

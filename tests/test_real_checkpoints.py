"""Folders like those of published block-fine-tuned models, in small: they load, are asked in their
own prompt format, give the Hugging Face model's logits and stop where they should."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from published import PUBLISHED
from test_logits import PROMPTS, assert_close
from transformers import AutoTokenizer, GenerationConfig

from game_agent.blocks.block import Block
from game_agent.engine import Engine, Request
from game_agent.errors import ModelError
from game_agent.model.planner import Step
from game_agent.model.runner import ModelRunner, load_runner
from game_agent.model.spec import load_spec
from game_agent.model.tensors import CheckpointTensors
from game_agent.model.weights import load_weights
from game_agent.runtime import Runtime
from game_agent.text.choosing import checkpoint_name
from game_agent.text.formats import FORMATS
from game_agent_kernels import PackedLinear
from game_agent_kernels.dispatch import kernels_for

BY_NAME = {published.name: published for published in PUBLISHED}
NAMES = list(BY_NAME)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {published.name: published.save(root) for published in PUBLISHED}


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, folders: dict[str, Path]) -> SimpleNamespace:
    """One model: what is published of it, its folder, and the runner that was loaded from it."""
    folder = folders[request.param]
    return SimpleNamespace(
        published=BY_NAME[request.param], folder=folder, runner=load(folder, prompt_format=None)
    )


def load(folder: Path, prompt_format: str | None) -> ModelRunner:
    return load_runner(folder, kv_memory_bytes=2**22, device="cpu", prompt_format=prompt_format)


def test_the_folder_is_as_published(case: SimpleNamespace) -> None:
    """Several shards and an index, and the keys that the Hub shows."""
    index = json.loads((case.folder / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 2
    assert all((case.folder / shard).exists() for shard in shards)
    config = json.loads((case.folder / "config.json").read_text())
    assert "rope_parameters" not in config
    assert ("lm_head.weight" in index["weight_map"]) != config["tie_word_embeddings"]


def test_it_is_asked_in_its_own_format(case: SimpleNamespace) -> None:
    """The format follows from the name; its tokens are those that the model's tokenizer gives."""
    encoder = case.runner.encoder
    expected = FORMATS[case.published.prompt_format]
    assert encoder.format.name == expected.name
    assert encoder.format.text(["A.", "B."], "C?") == expected.text(["A.", "B."], "C?")
    tokenizer = AutoTokenizer.from_pretrained(case.folder)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    heading = "" if case.published.prompt_format == "tulu3-block" else "[Block-Attention]"
    first = f"{heading}<|user|>\nYou are Mira. It's 1234 o'clock.\n\n"
    got = encoder.block("You are Mira. It's 1234 o'clock.", first=True)
    assert got.tolist() == ids(first)
    assert encoder.block("Title: A\nText: é.").tolist() == ids("- Title: A\nText: é.\n")
    assert encoder.event("Question: Who?").tolist() == ids("\n\nQuestion: Who?\n<|assistant|>\n")


def test_logits_are_the_hugging_face_models(case: SimpleNamespace) -> None:
    prompts = [[[t % 300 for t in ids] for ids in prompt] for prompt in PROMPTS]
    assert_close(case.folder, prompts)


def test_it_stops_at_each_of_its_stop_tokens(case: SimpleNamespace) -> None:
    runner: ModelRunner = case.runner
    stops = [runner.tokenizer.special(stop) for stop in case.published.stops]
    generation = GenerationConfig.from_pretrained(case.folder).eos_token_id
    named = generation if isinstance(generation, list) else [generation]
    assert runner.stop_token_ids == set(stops) >= set(named)
    assert runner.end_token_id == stops[0], "a reply is trained to end with that one"
    for stop in stops:
        assert stop is not None
        assert reply_before(runner, stop, 3) == 3


def reply_before(runner: ModelRunner, stop: int, count: int) -> int:
    """The length of a reply in which token number ``count`` is ``stop``, all others are not."""
    engine = Engine(runner)
    forward, calls = runner.forward, iter(range(1000))

    def steered(step: Step) -> torch.Tensor:
        logits = forward(step).clone()
        logits[:, list(runner.stop_token_ids)] = -torch.inf
        if next(calls) == count:
            logits[:, stop] = logits.max() + 1
        return logits

    blocks = (Block(runner.encoder.block("You are Mira.", first=True)),)
    request = Request(blocks, runner.encoder.event("Hi?"), max_tokens=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "forward", steered)
        patch.setattr(ModelRunner, "can_burst", False)
        completion = engine.run([request])[0]
    engine.close()
    assert completion.finish_reason == "stop"
    return len(completion.tokens)


def test_rows_without_a_token_are_not_text(case: SimpleNamespace) -> None:
    """Embedding tables are padded; a model may give such a row, and it must do no harm."""
    highest = case.runner.vocab_size - 1
    spare = case.published.num_spare
    assert (case.runner.tokenizer.backend.id_to_token(highest) is None) == (spare > 0)
    assert case.runner.tokenizer.decode([highest]) == ""


def test_an_agent_answers(case: SimpleNamespace) -> None:
    with Runtime.load(case.folder, device="cpu") as runtime:
        assert runtime.model_name == case.published.name
        runtime.world("inn", {"rooms": {"free": 3}})
        mira = runtime.agent("Mira", world="inn", profile="The keeper.")
        completion = mira.say("player", "A room?", max_tokens=8).wait()
        assert completion.finish_reason in ("stop", "length")


@pytest.mark.parametrize("name", NAMES)
def test_under_another_name_a_setting_says_it(
    tmp_path: Path, folders: dict[str, Path], name: str
) -> None:
    published = BY_NAME[name]
    folder = shutil.copytree(folders[name], tmp_path / "mine")
    guessed = load(folder, None).encoder.format.name
    assert guessed == ("template" if published.template else "llama-3")
    chosen = load(folder, published.prompt_format)
    assert chosen.encoder.format.name == published.prompt_format
    assert chosen.end_token_id == chosen.tokenizer.special(published.eos_token)
    assert chosen.name == "mine"


def test_a_download_is_called_by_its_hub_id(tmp_path: Path, folders: dict[str, Path]) -> None:
    snapshot = tmp_path / "models--ldsjmdy--Tulu3-Block-FT" / "snapshots" / "0f5c1e"
    shutil.copytree(folders["Tulu3-Block-FT"], snapshot)
    assert checkpoint_name(snapshot) == "ldsjmdy/Tulu3-Block-FT"
    runner = load(snapshot, None)
    assert runner.name == "ldsjmdy/Tulu3-Block-FT"
    assert runner.encoder.format.name == "tulu3-block"


def shard(folder: Path) -> Path:
    """Not the first: an error must come before anything was answered."""
    return sorted(folder.glob("*.safetensors"))[1]


def test_a_missing_shard(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["Tulu3-Block-FT"], tmp_path / "copy")
    missing = shard(folder)
    missing.unlink()
    with pytest.raises(ModelError, match=f"{missing.name} does not exist; .*download the file"):
        load(folder, None)


def test_a_shard_that_was_not_downloaded_whole(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["Qwen3-8B-Block-FT"], tmp_path / "copy")
    cut = shard(folder)
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"{cut.name} is damaged .*download it again"):
        load(folder, None)


def test_shards_of_another_model(tmp_path: Path, folders: dict[str, Path]) -> None:
    """Each file is whole; together they are not what config.json describes."""
    folder = shutil.copytree(folders["Tulu3-Block-FT"], tmp_path / "copy")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    left_out = index["weight_map"]["model.norm.weight"]
    index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != left_out}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"is missing in the \d+ files of .*incomplete"):
        load(folder, None)


def test_a_tokenizer_of_another_model(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = shutil.copytree(folders["Llama-3.2-1B-block-FT"], tmp_path / "copy")
    spec = json.loads((folder / "tokenizer.json").read_text())
    highest = max(spec["model"]["vocab"].values()) + 1000
    spec["model"]["vocab"]["zzzz"] = highest
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ModelError, match=f"token {highest}, .* it is another model's tokenizer"):
        load(folder, None)


def test_one_matrix_at_a_time_is_in_memory_as_its_file_has_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is read is gone before the next is: at most a layer's largest stack is alive."""
    alive: dict[int, int] = {}
    most: list[int] = []
    read = CheckpointTensors.read

    def watched(self: CheckpointTensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = read(self, name, shape)
        size = tensor.numel() * tensor.itemsize
        key = len(most)
        alive[key] = size
        weakref.finalize(tensor, alive.pop, key)
        most.append(sum(alive.values()))
        return tensor

    folder = folders["Tulu3-Block-FT"]
    monkeypatch.setattr(CheckpointTensors, "read", watched)
    stacks: list[weakref.ref[torch.Tensor]] = []
    kernels = kernels_for(torch.device("cpu"))

    def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
        assert not alive, "the parts of a stack are gone when it is packed"
        assert not any(stack() is not None for stack in stacks), "and so are all stacks before it"
        stacks.append(weakref.ref(weight))
        return kernels.pack_linear(weight, bias, dtype=torch.float32)

    spec = load_spec(folder)
    load_weights(folder, spec, torch.device("cpu"), torch.float32, pack)
    assert len(stacks) == 1 + 4 * spec.num_layers
    assert max(most) == spec.vocab_size * spec.hidden_size * 2

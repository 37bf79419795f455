"""Checkpoint folders that cannot be used: each says what is wrong, where, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file

from game_agent.errors import InvalidInput, ModelError
from game_agent.model.checkpoint import resolve
from game_agent.model.rope import inverse_frequencies
from game_agent.model.runner import load_runner
from game_agent.model.spec import RopeSpec, load_spec


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def cut_file(name: str, size: int) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:size])

    return edit


NORM = "model.layers.1.input_layernorm.weight"
Q = "model.layers.1.self_attn.q_proj"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "config not json": (cut_file("config.json", 20), "cannot be read as JSON"),
    "model type": (edit_config(model_type="gpt2"), "'gpt2' is not supported; supported are llama"),
    "missing key": (edit_config(num_hidden_layers="absent"), "num_hidden_layers is missing"),
    "bad key": (edit_config(hidden_size=-3), "hidden_size must be a positive integer"),
    "heads": (edit_config(num_key_value_heads=3), "is not a multiple"),
    "activation": (edit_config(hidden_act="gelu"), "hidden_act 'gelu' is not supported"),
    "dynamic rope": (
        edit_config(rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        "changes its frequencies",
    ),
    "rope factor": (edit_config(rope_parameters={"rope_type": "linear"}), "needs the parameter"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "the checkpoint is incomplete"),
    "cut weights": (cut_file("model.safetensors", 999), "damaged or not a safetensors file"),
    "missing tensor": (edit_weights(lambda t: t.__delitem__(NORM)), f"tensor {NORM} is missing"),
    "wrong shape": (
        edit_weights(lambda t: t.update({NORM: torch.zeros(3)})),
        r"has shape \(3,\), config.json asks for \(64,\)",
    ),
    "other tensor": (
        edit_weights(
            lambda t: t.update({f"{Q}.lora_A.weight": t[NORM] + 1, "score.weight": t[NORM] + 1})
        ),
        rf"safetensors: {Q}.lora_A.weight, score.weight: no such tensor belongs .*must be merged",
    ),
    "bias": (
        edit_weights(lambda t: t.update({f"{Q}.bias": t[NORM] + 1})),
        rf"{Q}.bias: no such tensor belongs to the model that config.json describes",
    ),
    "more layers": (edit_config(num_hidden_layers=1), r"and 6 more: no such tensor"),
    "integers": (
        edit_weights(lambda t: t.update({NORM: torch.ones(64, dtype=torch.int32)})),
        "holds torch.int32, not floating numbers",
    ),
    "quantized": (
        edit_config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantized weights are not supported; give the checkpoint that was quantized",
    ),
    "pickles": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"\*.bin files are not read: convert them",
    ),
    "pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec"),
        "is a pointer of Git LFS; run 'git lfs pull'",
    ),
    "end token": (edit_config(eos_token_id="</s>"), "eos_token_id must be a token id or a list"),
    "small vocabulary": (
        edit_config(vocab_size=100),
        "token 260, .* is 100: it is another model's",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "tokenizer.json does not exist; download it again, or where there is only a tokenizer.mod",
    ),
    "tokenizer not text": (
        lambda f: (f / "tokenizer.json").write_bytes(b"\xff"),
        "tokenizer.json cannot be read",
    ),
    "bad tokenizer": (cut_file("tokenizer.json", 100), "not a usable tokenizer"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_says_what_is_wrong(
    tmp_path: Path, tiny_checkpoint: Path, case: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load_runner(folder, kv_memory_bytes=2**20)


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        load_runner(resolve(tmp_path / "nothing"), kv_memory_bytes=2**20)


def test_wrong_settings_are_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidInput, match="dtype must be one of"):
        load_runner(tiny_checkpoint, kv_memory_bytes=2**20, dtype="int3")
    with pytest.raises(InvalidInput, match="no backend 'magic' here; there are: reference"):
        load_runner(tiny_checkpoint, kv_memory_bytes=2**20, backend="magic")


def test_shards_are_read_like_one_file(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    whole = load_runner(tiny_checkpoint, kv_memory_bytes=2**20)
    sharded = load_runner(folder, kv_memory_bytes=2**20)
    for a, b in zip(whole.decoder.weights.layers, sharded.decoder.weights.layers, strict=True):
        assert torch.equal(a.qkv.weight, b.qkv.weight)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelError, match="b.safetensors does not exist"):
        load_runner(folder, kv_memory_bytes=2**20)


def test_earlier_config_keys_are_understood(tmp_path: Path) -> None:
    """rope_theta and rope_scaling beside each other, as before transformers 5."""
    folder = make_checkpoint(tmp_path, rope="llama3")
    new = load_spec(folder)
    config = json.loads((folder / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters
    (folder / "config.json").write_text(json.dumps(config))
    old = load_spec(folder)
    assert (inverse_frequencies(old.rope)[0] == inverse_frequencies(new.rope)[0]).all()


def test_what_others_save_as_well_is_no_matter(tmp_path: Path) -> None:
    """A head beside tied embeddings; frequencies, as earlier versions of transformers did."""
    folder = make_checkpoint(tmp_path, tie_word_embeddings=True)
    edit_weights(
        lambda t: t.update(
            {
                "lm_head.weight": t["model.embed_tokens.weight"].clone(),
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
            }
        )
    )(folder)
    load_runner(folder, kv_memory_bytes=2**20)


def test_a_sliding_window_caps_the_context(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "mistral", sliding_window=1000)
    assert load_spec(folder).max_context_tokens == 1000
    folder = make_checkpoint(tmp_path, "qwen2", sliding_window=1000, use_sliding_window=False)
    assert load_spec(folder).max_context_tokens == 16384


def test_partial_rotary_turns_only_its_dimensions() -> None:
    frequencies, scaling = inverse_frequencies(RopeSpec("default", 1e4, 12, {}))
    assert len(frequencies) == 6
    assert scaling == 1.0

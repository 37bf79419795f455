"""What fine-tuning leaves: a checkpoint folder like the one it began with, or an adapter."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import AutoModelForCausalLM

from game_agent.finetuning.packages import package
from game_agent.finetuning.settings import Settings
from game_agent.text.choosing import choose_format, record_format, recorded_format
from game_agent.text.tokenizer import Tokenizer
from game_agent.writing import writes

# Files of a checkpoint folder that are not carried over.
_REPLACED = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".gguf", ".part", "README.md")


def write_result(
    settings: Settings, model: Any, state: Mapping[str, Tensor], dtype: torch.dtype, card: str
) -> None:
    """Write ``settings.out``, whole or not at all.

    model: unwrapped; state: its weights, gathered; dtype: of the weights written. With LoRA and
    ``merge`` the checkpoint is read once more, in float32.

    Raises :class:`TrainingError` where it cannot be written.
    """
    part = settings.out.with_name(settings.out.name + ".part")
    with writes(part):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for path in sorted(settings.model.iterdir()):
            if path.is_file() and not path.name.endswith(_REPLACED):
                shutil.copy2(path, part)
        _write_model(settings, part, model, state, dtype)
        # The format may follow from the name of the folder that it began with, which is another.
        set_format = (settings.prompt_format, settings.prompt_prefix)
        chosen = choose_format(settings.model, Tokenizer.load(settings.model), *set_format)
        record_format(part, chosen.name, recorded_format(settings.model, *set_format)[1])
        (part / "README.md").write_text(card, "utf-8")
        part.rename(settings.out)


def _write_model(
    settings: Settings, part: Path, model: Any, state: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    if not settings.lora_rank:
        _write_weights(part, state, dtype, is_tied=model.config.tie_word_embeddings)
        return
    adapter = part / "adapter" if settings.merge else part
    model.save_pretrained(adapter, state_dict=dict(state), save_embedding_layers=False)
    if settings.merge:
        merged = _merged(settings.model, adapter)
        shutil.rmtree(adapter)
        _write_weights(part, merged, dtype, is_tied=model.config.tie_word_embeddings)
    else:
        (part / "config.json").unlink()


def _merged(folder: Path, adapter: Path) -> Mapping[str, Tensor]:
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    merged = package("peft").PeftModel.from_pretrained(base, adapter).merge_and_unload()
    state: Mapping[str, Tensor] = merged.state_dict()
    return state


def _write_weights(
    folder: Path, state: Mapping[str, Tensor], dtype: torch.dtype, *, is_tied: bool
) -> None:
    weights = {
        name: weight.detach().to("cpu", dtype).contiguous()
        for name, weight in state.items()
        if not (is_tied and name == "lm_head.weight")
    }
    save_torch_state_dict(weights, folder, max_shard_size="5GB", metadata={"format": "pt"})

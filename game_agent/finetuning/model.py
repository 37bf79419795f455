"""The model that learns: a checkpoint as Hugging Face loads it, whole or with an adapter."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from game_agent.errors import ModelError
from game_agent.finetuning.packages import package
from game_agent.finetuning.settings import Settings


def load_model(
    settings: Settings, dtype: torch.dtype, *, checkpointing: bool
) -> tuple[Any, torch.dtype]:
    """(model ready to learn, dtype of the checkpoint); ``dtype`` is that of the products.

    Raises :class:`ModelError` for weights that cannot be read or are missing.
    """
    torch.manual_seed(settings.seed)
    model = _loaded(settings)
    saved = model.dtype
    model.config.use_cache = False
    if checkpointing:
        # transformers renamed it.
        name = "activation_checkpointing_enable"
        enable = getattr(model, name, None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if not settings.lora_rank:
        return model.float().train(), saved
    peft = package("peft")
    config = peft.LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model.to(dtype), config).train(), saved


def _loaded(settings: Settings) -> Any:
    loader: Any = AutoModelForCausalLM
    try:
        model, found = loader.from_pretrained(
            settings.model,
            dtype="auto",
            attn_implementation=settings.attention,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{settings.model} cannot be loaded: {error}") from error
    # transformers only warns, and goes on with random numbers.
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{settings.model} lacks {missing[0]}"
            + (f" and {len(missing) - 1} more tensors" if missing[1:] else "")
            + "; give the whole checkpoint"
        )
    return model

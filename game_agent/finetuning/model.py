"""The model that learns: a checkpoint as Hugging Face loads it, whole or with an adapter."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from game_agent.finetuning.packages import package
from game_agent.finetuning.settings import Settings


def load_model(settings: Settings, dtype: torch.dtype) -> tuple[Any, torch.dtype]:
    """(model ready to learn, dtype of the checkpoint); ``dtype`` is that of the products."""
    torch.manual_seed(settings.seed)
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings.model, dtype="auto", attn_implementation=settings.attention
    )
    saved = model.dtype
    model.config.use_cache = False
    if settings.checkpointing:
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

"""The README of a fine-tuned checkpoint: what it is, how well it does, how it is asked."""

from __future__ import annotations

from collections.abc import Mapping

from game_agent.finetuning.settings import Settings
from game_agent.finetuning.training import Figures


def result_card(
    settings: Settings, num_samples: int, num_skipped: int, measured: Mapping[str, Figures]
) -> str:
    """Markdown."""
    what = f"LoRA of rank {settings.lora_rank}" if settings.lora_rank else "all weights"
    masks = {"both": "in block mode and in full mode", "block": "in block mode", "full": "causally"}
    skipped = f", {num_skipped} bad records left out" if num_skipped else ""
    lines = [
        f"# {settings.out.name}\n",
        f"Fine-tuned from `{settings.model.name}` by `game-agent finetune` for block attention "
        "(arXiv 2409.15355): blocks of a prompt are encoded alone.\n",
        f"- {what}, {settings.steps} steps, each sample {masks[settings.masks]}, highest learning "
        f"rate {settings.top_rate:g}, {settings.schedule}",
        f"- {num_samples} samples of at most {settings.max_tokens} tokens{skipped}",
        f"- ask it as it was trained: `game-agent serve --model FOLDER{_options(settings)}`",
    ]
    if settings.sink is not None:
        lines.append(f"- it was trained behind a sink: `Runtime.load(…, sink={settings.sink!r})`")
    if measured:
        lines.append("\nOn held-out samples, after the last step:\n")
        lines.append("| mode | loss per reply token, nats | replies right in every token |")
        lines.append("|---|---|---|")
        lines += [f"| {mode} | {f.loss:.3f} | {f.exact:.1%} |" for mode, f in measured.items()]
    return "\n".join(lines) + "\n"


def _options(settings: Settings) -> str:
    options = ""
    if settings.prompt_format is not None:
        options += f" --prompt-format {settings.prompt_format}"
    if settings.prompt_prefix:
        options += f' --prompt-prefix "{settings.prompt_prefix}"'
    return options

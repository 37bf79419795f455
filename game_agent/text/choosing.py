"""Which prompt format a checkpoint is asked in."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from game_agent.errors import ModelError
from game_agent.text.chat_template import NAME, ChatTemplate, derive, special_tokens
from game_agent.text.formats import BLOCK_FT, FORMATS, PLAIN, TULU3_BLOCK, PromptFormat
from game_agent.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

# Nothing in a checkpoint's files tells these: their templates are those of the models that they
# were trained from. Their names do, and for copies under other names a setting.
_BY_NAME_ONLY = (TULU3_BLOCK, BLOCK_FT)
_PUBLISHED = {
    "tulu3-block-ft": TULU3_BLOCK,
    "llama-3.1-8b-block-ft": BLOCK_FT,
    "llama-3.2-1b-block-ft": BLOCK_FT,
    "qwen3-8b-block-ft": BLOCK_FT,
}
RECORD = "game_agent.json"
"""Where a checkpoint that was fine-tuned here says what it was fine-tuned in."""


def choose_format(
    folder: Path,
    tokenizer: Tokenizer,
    prompt_format: str | None = None,
    prompt_prefix: str = "",
) -> PromptFormat:
    """The format for the checkpoint in ``folder``, with ``prompt_prefix`` before block 0.

    prompt_format: a name of ``FORMATS``, or ``template``: from the chat template. None chooses:
                   what the folder records (``record_format``), else the bundled model's where the
                   tokenizer has its special tokens, else that of the published block-fine-tuned
                   model whose name the folder has, else what the template says if it has one that
                   can be cut into blocks, else the first of ``FORMATS`` whose special tokens there
                   are.

    What the checkpoint's tokenizer calls the end of a text ends a reply in any format.

    Raises :class:`ModelError` for an unknown name, or a format that this tokenizer cannot write.
    """
    name, prefix = recorded_format(folder, prompt_format, prompt_prefix)
    chosen = _chosen(folder, tokenizer, name)
    missing = [s for s in sorted(chosen.specials) if tokenizer.special(s) is None]
    if missing:
        raise ModelError(
            f"the tokenizer lacks {', '.join(missing)}, which the prompt format {chosen.name!r} "
            "needs; choose another one"
        )
    end = special_tokens(folder).get("eos_token")
    if end is not None and end not in chosen.stop and tokenizer.special(end) is not None:
        chosen = replace(chosen, stop=(*chosen.stop, end))
    return chosen.with_prefix(prefix)


def record_format(folder: Path, prompt_format: str, prompt_prefix: str) -> None:
    """Have ``choose_format`` choose these for the checkpoint in ``folder``."""
    record = {"prompt_format": prompt_format, "prompt_prefix": prompt_prefix}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def recorded_format(
    folder: Path, prompt_format: str | None = None, prompt_prefix: str = ""
) -> tuple[str | None, str]:
    """Format and prefix: as they are set, or else as the folder records them.

    A prefix belongs to its format: the record's is left out where another format is set. Raises
    :class:`ModelError` for a record that cannot be read.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text("utf-8")) if path.exists() else {}
        name, prefix = record.get("prompt_format"), record.get("prompt_prefix", "")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(name, str | None) or not isinstance(prefix, str):
        raise ModelError(f"{path}: prompt_format and prompt_prefix are texts")
    if prompt_format in (None, name):
        return name, prompt_prefix or prefix
    return prompt_format, prompt_prefix


def _chosen(folder: Path, tokenizer: Tokenizer, name: str | None) -> PromptFormat:
    if name is not None and name != NAME:
        if name not in FORMATS:
            known = ", ".join([*FORMATS, NAME])
            raise ModelError(f"no prompt format {name!r}; there are {known}")
        return FORMATS[name]
    if name is None and _can_write(tokenizer, PLAIN):
        return PLAIN
    published = _PUBLISHED.get(checkpoint_name(folder).split("/")[-1].lower())
    if name is None and published is not None:
        _log.info("prompt format %s, by the name of %s", published.name, folder)
        return published
    template = ChatTemplate.load(folder)
    if name == NAME:
        if template is None:
            raise ModelError(f"{folder} has no chat template to make a prompt format of")
        return derive(template, tokenizer)
    if template is not None:
        try:
            return derive(template, tokenizer)
        except ModelError as error:
            _log.warning("%s; its special tokens tell the format instead", error.message)
    candidates = (f for f in FORMATS.values() if f not in _BY_NAME_ONLY)
    return next(f for f in candidates if _can_write(tokenizer, f))


def checkpoint_name(folder: Path) -> str:
    """What a checkpoint is called: the folder's name, or the Hub id that it was downloaded as."""
    snapshots = folder.parent
    repository = snapshots.parent.name.split("--")
    if snapshots.name == "snapshots" and repository[0] == "models":
        return "/".join(repository[1:])
    return folder.name


def _can_write(tokenizer: Tokenizer, prompt_format: PromptFormat) -> bool:
    return all(tokenizer.special(s) is not None for s in prompt_format.specials)

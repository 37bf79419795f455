"""Which prompt format a checkpoint is asked in."""

from __future__ import annotations

import logging
from pathlib import Path

from game_agent.errors import ModelError
from game_agent.text.chat_template import NAME, ChatTemplate, derive
from game_agent.text.formats import BLOCK_FT, FORMATS, PLAIN, TULU3_BLOCK, PromptFormat
from game_agent.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

# Nothing in a tokenizer tells these; somebody has to say so.
_BY_NAME_ONLY = (TULU3_BLOCK, BLOCK_FT)


def choose_format(
    folder: Path,
    tokenizer: Tokenizer,
    prompt_format: str | None = None,
    prompt_prefix: str = "",
) -> PromptFormat:
    """The format for the checkpoint in ``folder``, with ``prompt_prefix`` before block 0.

    prompt_format: a name of ``FORMATS``, or ``template``: from the chat template. None chooses: the
                   bundled model's where the tokenizer has its special tokens, else what the
                   template says if it has one that can be cut into blocks, else the first of
                   ``FORMATS`` whose special tokens there are.

    Raises :class:`ModelError` for an unknown name, or a format that this tokenizer cannot write.
    """
    chosen = _chosen(folder, tokenizer, prompt_format)
    missing = [s for s in sorted(chosen.specials) if tokenizer.special(s) is None]
    if missing:
        raise ModelError(
            f"the tokenizer lacks {', '.join(missing)}, which the prompt format {chosen.name!r} "
            "needs; choose another one"
        )
    return chosen.with_prefix(prompt_prefix)


def _chosen(folder: Path, tokenizer: Tokenizer, name: str | None) -> PromptFormat:
    if name is not None and name != NAME:
        if name not in FORMATS:
            known = ", ".join([*FORMATS, NAME])
            raise ModelError(f"no prompt format {name!r}; there are {known}")
        return FORMATS[name]
    if name is None and _can_write(tokenizer, PLAIN):
        return PLAIN
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


def _can_write(tokenizer: Tokenizer, prompt_format: PromptFormat) -> bool:
    return all(tokenizer.special(s) is not None for s in prompt_format.specials)

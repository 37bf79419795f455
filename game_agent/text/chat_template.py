"""A prompt format from the chat template of a checkpoint: rendered, and cut at its messages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from game_agent.errors import ModelError
from game_agent.text.formats import Around, Piece, PromptFormat, Special
from game_agent.text.tokenizer import Tokenizer

NAME = "template"
# Stand for texts; no template writes these itself.
_SYSTEM, _USER, _REPLY = "sentinel-one", "sentinel-two", "sentinel-three"
# A prompt that the format is tried on: more than one line, more than one block.
_BLOCKS, _EVENT = ("You are Mira.\nBe brief.", "inn: rooms: 3.", "mill: rooms: none."), "Kay: Hi?"
# Some templates write today's date; block 0 would be another one each day.
_SAME_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}{{ '' }}"
_LINE: Around = ((), ("\n",))
_NEXT_LINE: Around = (("\n",), ())

Message = dict[str, str]


@dataclass(frozen=True)
class ChatTemplate:
    """The Jinja source of a template, and the special tokens that it may name."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def load(folder: Path) -> ChatTemplate | None:
        """The template of a checkpoint folder, None if it has none.

        Raises :class:`ModelError` for a file that cannot be read.
        """
        config = _config(folder)
        path = folder / "chat_template.jinja"
        try:
            source = path.read_text("utf-8") if path.exists() else _default(config)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from None
        return None if source is None else ChatTemplate(source, _tokens(config))

    def render(self, messages: Sequence[Message], *, is_question: bool = True) -> str:
        """The text of a talk, up to where a reply begins. Raises :class:`ModelError`."""
        # A model that thinks aloud first would keep the player waiting.
        names: dict[str, Any] = {**self.tokens, "enable_thinking": False}
        try:
            rendered: Any = render_jinja_template(
                [list(messages)],
                chat_template=_SAME_DAY + self.source,
                add_generation_prompt=is_question,
                **names,
            )
        except (TemplateError, ImportError, TypeError, ValueError, LookupError) as error:
            raise ModelError(f"the chat template cannot be rendered: {error}") from None
        return str(rendered[0][0])


def derive(template: ChatTemplate, tokenizer: Tokenizer) -> PromptFormat:
    """The format in which blocks one after another are exactly what ``template`` writes.

    Blocks are the system message, or where a template knows no such role the beginning of the
    user's. Raises :class:`ModelError` if there is no such format.
    """
    errors = []
    for has_system, line in ((True, _LINE), (True, _NEXT_LINE), (False, _LINE)):
        try:
            made = _cut(template, tokenizer, line, has_system=has_system)
            if made.text(_BLOCKS, _EVENT) == template.render(_trial(line, has_system=has_system)):
                return made
            errors.append("it changes the texts that it is given")
        except ModelError as error:
            errors.append(error.message)
    raise ModelError(f"no prompt format follows from the chat template: {'; '.join(errors)}")


def _cut(
    template: ChatTemplate, tokenizer: Tokenizer, line: Around, *, has_system: bool
) -> PromptFormat:
    names = [_SYSTEM, _USER] if has_system else [_USER]
    messages = _talk(_SYSTEM if has_system else None, _USER)
    before, *between, after = (
        _pieces(text, tokenizer) for text in _between(template.render(messages), names)
    )
    reply = [*messages, {"role": "assistant", "content": _REPLY}]
    *_, end = _between(template.render(reply, is_question=False), [*names, _REPLY])
    ends = [piece.content for piece in _pieces(end, tokenizer) if isinstance(piece, Special)][:1]
    eos = template.tokens.get("eos_token", "")
    stop = dict.fromkeys([*ends, *([eos] if tokenizer.special(eos) is not None else [])])
    return PromptFormat(
        name=NAME,
        first=(before, line[1]),
        block=line,
        event=(between[0] if between else (), after),
        stop=tuple(stop),
    )


def _trial(line: Around, *, has_system: bool) -> list[Message]:
    """The messages that hold the blocks and the event which a format is tried on."""
    text = "\n".join(_BLOCKS) + ("\n" if line is _LINE else "")
    return _talk(text, _EVENT) if has_system else _talk(None, text + _EVENT)


def _talk(system: str | None, user: str) -> list[Message]:
    said = [] if system is None else [{"role": "system", "content": system}]
    return [*said, {"role": "user", "content": user}]


def _between(text: str, names: Sequence[str]) -> list[str]:
    """``text`` cut at ``names``, which must be in it in this order, each once."""
    found = re.findall("|".join(names), text)
    if found != list(names):
        raise ModelError("it leaves messages out, repeats them or moves them")
    return re.split("|".join(names), text)


def _pieces(text: str, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    """Letters and special tokens of a stretch of template."""
    names = sorted(tokenizer.specials, key=len, reverse=True)
    if not names:
        return (text,) if text else ()
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return tuple(Special(part) if i % 2 else part for i, part in enumerate(parts) if part)


def special_tokens(folder: Path) -> Mapping[str, str]:
    """What ``tokenizer_config.json`` calls ``bos_token``, ``eos_token`` and so on, by those names.

    Raises :class:`ModelError` for a file that cannot be read.
    """
    return _tokens(_config(folder))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return config


def _default(config: Mapping[str, Any]) -> str | None:
    """The template in a tokenizer's configuration; of several, the one for talking."""
    source = config.get("chat_template")
    if isinstance(source, list):
        source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
    return source if isinstance(source, str) else None


def _tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token`` and the like, which are texts or objects with ``content``."""
    tokens = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(content, str):
            tokens[name] = content
    return tokens

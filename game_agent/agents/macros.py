"""Macros of Character Cards, as ``{{char}}``: what stands in their place in a prompt.

Version 3 calls them curly braced syntaxes. Whatever is left to chance is drawn from the text
itself: a block must read the same each time, or it would have to be encoded each time.
"""

from __future__ import annotations

import random
import re

MAX_ROLL_DIGITS = 9

_NAMES = re.compile(r"\{\{(char|user)\}\}|<(char|bot|user)>", re.IGNORECASE)
_COMMENTS = re.compile(r"\{\{(?://|comment:)[^{}]*\}\}", re.IGNORECASE)
_CALLS = re.compile(r"\{\{(hidden_key|reverse|pick|random|roll):([^{}]*)\}\}", re.IGNORECASE)
_COMMA = re.compile(r"(?<!\\),")


def without_comments(text: str) -> str:
    """``text`` without ``{{// …}}`` and ``{{comment: …}}``, which nobody but the author reads."""
    return _COMMENTS.sub("", text)


def fill(text: str, char: str, user: str) -> str:
    """``text`` as a prompt has it.

    ``{{char}}``, ``<char>``, ``<bot>`` and ``{{user}}``, ``<user>`` become the names;
    ``{{reverse:abc}}`` is "cba"; ``{{pick:a,b}}`` and ``{{random:a,b}}`` are one of them (``\\,``
    is a comma), ``{{roll:6}}`` is a number from 1 to 6; comments and ``{{hidden_key:…}}`` are
    nothing. In any spelling; what is none of these stays.
    """
    if "{" not in text and "<" not in text:
        return text

    def name(match: re.Match[str]) -> str:
        macro = (match[1] or match[2]).lower()
        return user if macro == "user" else char

    def call(match: re.Match[str]) -> str:
        chance = random.Random(f"{char}\0{match.start()}\0{text}")
        return _called(match[1].lower(), match[2].lstrip(":"), chance, match[0])

    return _CALLS.sub(call, _NAMES.sub(name, without_comments(text)))


def _called(name: str, argument: str, chance: random.Random, whole: str) -> str:
    if name == "hidden_key":
        return ""
    if name == "reverse":
        return argument[::-1]
    if name == "roll":
        sides = argument.strip().lower().removeprefix("d")
        is_number = sides.isascii() and sides.isdigit() and len(sides) <= MAX_ROLL_DIGITS
        return str(chance.randint(1, int(sides))) if is_number and int(sides) else whole
    return chance.choice(_COMMA.split(argument)).replace("\\,", ",").strip()

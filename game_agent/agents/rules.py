"""Rules of a game for how its world is cut: by paths with ``*`` and ``**``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from game_agent.agents.fields import known_fields
from game_agent.agents.pointer import Json, Path, parse_pointer
from game_agent.agents.rendering import collapse, flatten, items_text
from game_agent.errors import InvalidInput, TooLarge

Do = Literal["omit", "split", "join", "template"]
ANY, ANY_DEPTH = "*", "**"
MAX_RULES = 256
MAX_DEEP = 4
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Rule:
    """What is done to the values that ``path`` matches; of several rules the first one counts.

    path:     a JSON Pointer in which ``*`` is any one key or index, ``**`` any number of them
    do:       ``omit``: it is left out; ``split``: each member has parts of its own, even a tiny
              one; ``join``: it is never cut, however long; ``template``: it reads as ``template``
    template: text with fields: ``{hp}`` and ``{home/town}`` are members, ``{}`` the value's own key
              or name, ``{{`` and ``}}`` braces. What it names is shown whole

    Raises InvalidInput, with ``where`` as the pointer of the field at fault.
    """

    path: str
    do: Do
    template: str | None = None

    def __post_init__(self) -> None:
        num_deep = parse_pointer(self.path, "/path").count(ANY_DEPTH)
        if num_deep > MAX_DEEP:
            raise InvalidInput(f"a path has at most {MAX_DEEP} times **", where="/path")
        if self.do not in get_args(Do):
            message = f'"do" must be one of {", ".join(get_args(Do))}'
            raise InvalidInput(message, where="/do")
        if self.do == "omit" and is_here(self.tokens):
            raise InvalidInput("the whole state cannot be left out", where="/path")
        if (self.do == "template") != (self.template is not None):
            message = '"template" is a text, and belongs to "do": "template"'
            raise InvalidInput(message, where="/template")
        if self.template is not None:
            _check_template(self.template)

    @cached_property
    def tokens(self) -> Path:
        return parse_pointer(self.path)

    def render(self, value: Json, label: str | None) -> str:
        """The template's text for ``value``, on one line."""

        def field(match: re.Match[str]) -> str:
            if match[0] in ("{{", "}}"):
                return match[0][0]
            if not match[1]:
                return label or ""
            return items_text(flatten(_member(value, parse_pointer(f"/{match[1]}"))))

        return collapse(_FIELD.sub(field, self.template or ""))

    def to_value(self) -> dict[str, Json]:
        """The rule as plain JSON, as ``parse_rules`` reads it."""
        value: dict[str, Json] = {"path": self.path, "do": self.do}
        return value if self.template is None else {**value, "template": self.template}


def parse_rules(value: Json | Sequence[Json | Rule]) -> tuple[Rule, ...]:
    """Rules from plain JSON: an array of objects with ``path``, ``do`` and perhaps ``template``.

    Rules that were made already may be among them. Raises InvalidInput with the JSON Pointer of
    the culprit, TooLarge for too many rules.
    """
    if not isinstance(value, list | tuple):
        raise InvalidInput("the rules of a partition are an array")
    if len(value) > MAX_RULES:
        raise TooLarge(f"there are at most {MAX_RULES} rules")
    return tuple(_rule(fields, f"/{index}") for index, fields in enumerate(value))


def _rule(fields: object, where: str) -> Rule:
    if isinstance(fields, Rule):
        return fields
    fields = known_fields(fields, {"path", "do", "template"}, "a rule", where)
    path, do, template = (fields.get(name) for name in ("path", "do", "template"))
    if not isinstance(path, str):
        raise InvalidInput("a rule needs a path, a JSON Pointer", where=f"{where}/path")
    if not isinstance(template, str | None):
        raise InvalidInput("a template is a text", where=f"{where}/template")
    try:
        return Rule(path, do, template)  # type: ignore[arg-type]
    except InvalidInput as error:
        error.where = f"{where}{error.where}"
        raise


def _check_template(template: str) -> None:
    if not collapse(template):
        raise InvalidInput("a template must not be empty", where="/template")
    for match in _FIELD.finditer(template):
        if match[0] in ("{", "}"):
            message = "a brace stands alone in the template; write {{ or }} for the character"
            raise InvalidInput(message, where="/template")
        if match[1]:
            parse_pointer(f"/{match[1]}", "/template")


def _member(value: Json, path: Path) -> Json:
    """What ``path`` names in ``value``, None if nothing."""
    for token in path:
        if isinstance(value, Mapping):
            value = value.get(token)
        elif isinstance(value, list | tuple):
            is_index = token.isascii() and token.isdigit() and len(token) < 10
            value = value[int(token)] if is_index and int(token) < len(value) else None
        else:
            return None
    return value


RuleTails = tuple[tuple[Path, Rule], ...]
"""Rules as seen from a place: what of their paths is left from there."""


def is_here(tail: Path) -> bool:
    """Whether a path of which ``tail`` is left has arrived."""
    return all(token == ANY_DEPTH for token in tail)


def below(rules: RuleTails, token: str) -> RuleTails:
    """The rules as seen from the member ``token``; those that cannot match there are left out."""
    if not rules:
        return rules
    tails = ((after, rule) for tail, rule in rules for after in tails_after(tail, token))
    return tuple(dict.fromkeys(tails))


def tails_after(tail: Path, token: str) -> Sequence[Path]:
    """What is left of a path, of which ``tail`` was, after the step ``token``; () has arrived."""
    if not tail:
        return ()
    head, rest = tail[0], tail[1:]
    if head == ANY_DEPTH:
        return (tail, *tails_after(rest, token))
    return (rest,) if head in (ANY, token) else ()


def rule_here(rules: RuleTails) -> Rule | None:
    """The first rule that is for this place."""
    return next((rule for tail, rule in rules if is_here(tail)), None)

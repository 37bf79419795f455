"""Actions as typed functions: what an agent can do, with which arguments, as things stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from game_agent.agents.fields import known_fields
from game_agent.agents.patch import check_json
from game_agent.agents.pointer import Json
from game_agent.agents.rendering import collapse, flatten, items_text, sentence
from game_agent.agents.values import View, value_path
from game_agent.errors import InvalidInput, TooLarge

MAX_ACTIONS = 128
MAX_PARAMETERS = 32
MAX_NAME_CHARS = 64
# What may be said of a parameter whose texts can have a letter more before them; a pattern, a least
# length, or schemas within one would not be kept.
_LOOSE = frozenset({"type", "enum", "const", "values", "description", "title", "maxLength"})


@dataclass(frozen=True)
class Action:
    """A function that the game offers.

    parameters: by name a JSON Schema, or ``{"values": "/path"}`` (a path or an array of them) for
                the values that the world has there when the agent acts, of which it can name only
                what it sees. ``{agent}`` in a path is the agent's name. All are required

    Raises InvalidInput, with ``where`` as the pointer of the field at fault.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        _check_name(self.name, "/name")
        check_json(self.description, "/description")
        if not isinstance(self.description, str):
            raise InvalidInput("a description is a text", where="/description")
        check_json(self.parameters, "/parameters")
        if not isinstance(self.parameters, Mapping | None):
            raise InvalidInput("parameters are an object, by name", where="/parameters")
        if len(self.parameters or ()) > MAX_PARAMETERS:
            raise TooLarge(f"there are at most {MAX_PARAMETERS} parameters", where="/parameters")
        for name, kind in (self.parameters or {}).items():
            _check_name(name, "/parameters")
            _check_parameter(kind, f"/parameters/{name}")

    @cached_property
    def text(self) -> str:
        """How it reads in the prompt: ``sell (item, price): Sell something.``"""
        names = ", ".join(map(collapse, self.parameters or ()))
        what = f"{collapse(self.name)} ({names})" if names else collapse(self.name)
        return sentence(f"{what}: {collapse(self.description)}" if self.description else what)

    def schema(self, view: View | None, before: str = "") -> dict[str, Json] | None:
        """What the action looks like as JSON, None where the world has nothing for a parameter.

        Without a view of the world, values of the world are any text. ``before`` stands before
        every text that is given, as the model writes it; :meth:`read` takes it away.
        """
        arguments: dict[str, Any] = {}
        for name, kind in (self.parameters or {}).items():
            if "values" not in kind:
                arguments[name] = _with_prefix(kind, before)
            elif view is None:
                arguments[name] = {"type": "string"}
            elif values := view.values(*_paths(kind["values"])):
                arguments[name] = _with_prefix({"enum": values}, before)
            else:
                return None
        own_name = {"const": before + self.name}
        return _object({"name": own_name, "arguments": _object(arguments)})

    def read(self, arguments: Mapping[str, Json], before: str) -> dict[str, Json]:
        """The call with such arguments, without ``before`` where :meth:`schema` lets it stand."""
        kinds = self.parameters or {}
        return {
            "name": self.name,
            "arguments": {
                name: value.removeprefix(before)
                if isinstance(value, str) and kinds[name].keys() <= _LOOSE
                else value
                for name, value in arguments.items()
            },
        }

    def to_value(self) -> dict[str, Json]:
        """The action as plain JSON, as ``parse_actions`` reads it."""
        parameters = {name: dict(kind) for name, kind in (self.parameters or {}).items()}
        return {"name": self.name, "description": self.description, "parameters": parameters}


def parse_actions(value: Json | Sequence[Json | Action]) -> tuple[Action, ...]:
    """Actions from plain JSON: an array of objects with the fields of :class:`Action`.

    Actions that were made already may be among them. Raises InvalidInput with the JSON Pointer of
    the culprit, TooLarge for too many.
    """
    if not isinstance(value, list | tuple):
        raise InvalidInput("actions are an array")
    if len(value) > MAX_ACTIONS:
        raise TooLarge(f"there are at most {MAX_ACTIONS} actions")
    actions = tuple(_action(fields, f"/{index}") for index, fields in enumerate(value))
    names: set[str] = set()
    for index, action in enumerate(actions):
        if action.name in names:
            raise InvalidInput(f'there are two actions "{action.name}"', where=f"/{index}/name")
        names.add(action.name)
    return actions


def actions_text(actions: Iterable[Action]) -> str:
    """The text of the block that tells what can be done."""
    what = " ".join(action.text for action in actions)
    return f'Possible actions: {what} Answer with one, as {{"name": …, "arguments": {{…}}}}.'


def actions_schema(
    actions: Iterable[Action], view: View | None, before: str = ""
) -> dict[str, Json] | None:
    """The JSON Schema of one of ``actions`` as the world stands; None if none is possible."""
    schemas = (action.schema(view, before) for action in actions)
    possible = [schema for schema in schemas if schema is not None]
    return {"anyOf": possible} if possible else None


def read_action(
    actions: Iterable[Action], call: Mapping[str, Json], before: str
) -> dict[str, Json]:
    """A call that follows the schema of ``actions``, as the game gets it."""
    named = {before + action.name: action for action in actions}
    arguments = call["arguments"]
    assert isinstance(arguments, Mapping)
    return named[str(call["name"])].read(arguments, before)


def done_text(action: Mapping[str, Json]) -> str:
    """An action that was done, as memory keeps it: ``*sell: item: bread; price: 3*``."""
    arguments, name = action["arguments"], collapse(str(action["name"]))
    return f"*{name}: {items_text(flatten(arguments))}*" if arguments else f"*{name}*"


def _with_prefix(kind: Mapping[str, Any], before: str) -> dict[str, Any]:
    """A schema whose given texts have ``before`` before them, where nothing else speaks of them."""
    if not kind.keys() <= _LOOSE:
        return dict(kind)

    def prefixed(value: Json) -> Json:
        return before + value if isinstance(value, str) else value

    given = dict(kind)
    # What is no number there is for the grammar to refuse.
    if isinstance(given.get("maxLength"), int) and given.keys() & {"enum", "const"}:
        given["maxLength"] += len(before)
    if isinstance(given.get("enum"), list | tuple):
        given["enum"] = [prefixed(value) for value in given["enum"]]
    if "const" in given:
        given["const"] = prefixed(given["const"])
    return given


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _action(fields: object, where: str) -> Action:
    if isinstance(fields, Action):
        return fields
    fields = known_fields(fields, {"name", "description", "parameters"}, "an action", where)
    try:
        return Action(
            fields.get("name", ""), fields.get("description", ""), fields.get("parameters")
        )
    except InvalidInput as error:
        error.where = f"{where}{error.where}"
        raise


def _check_name(name: Json, where: str) -> None:
    if not isinstance(name, str) or not collapse(name) or len(name) > MAX_NAME_CHARS:
        message = f"a name is a text of 1 to {MAX_NAME_CHARS} characters"
        raise InvalidInput(message, where=where)


def _check_parameter(kind: Json, where: str) -> None:
    if not isinstance(kind, Mapping):
        raise InvalidInput('a parameter is a JSON Schema or {"values": …}', where=where)
    if "values" not in kind:
        return
    for name in kind.keys() - {"values", "description"}:
        message = f'"{name}" does not go with "values"; the world says which they are'
        raise InvalidInput(message, where=f"{where}/{name}")
    paths = _paths(kind["values"])
    if not paths:
        raise InvalidInput("at least one path is needed", where=f"{where}/values")
    for path in paths:
        value_path(path, "", f"{where}/values")


def _paths(values: Json) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]

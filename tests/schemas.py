"""Random JSON Schemas of the kinds that games send: nested, with references, optional fields."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]


def random_schema(rng: random.Random, depth: int = 3) -> Schema:
    """An object of one to four fields; every string and array in it is bounded."""
    schema = _object(rng, depth)
    if rng.random() < 0.2:
        schema["$defs"] = {"item": _leaf(rng)}
        schema["properties"]["by reference"] = {"$ref": "#/$defs/item"}
        schema["required"].append("by reference")
    return schema


def _any(rng: random.Random, depth: int) -> Schema:
    if depth <= 0 or rng.random() < 0.5:
        return _leaf(rng)
    if rng.random() < 0.5:
        return _object(rng, depth - 1)
    if rng.random() < 0.7:
        least = rng.randrange(2)
        return {
            "type": "array",
            "items": _any(rng, depth - 1),
            "minItems": least,
            "maxItems": least + rng.randrange(1, 3),
        }
    return {"anyOf": [_any(rng, depth - 1), _leaf(rng)]}


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(_WORDS, rng.randrange(1, 5))
    return {
        "type": "object",
        "properties": {name: _any(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }


def _leaf(rng: random.Random) -> Schema:
    low = rng.randrange(-50, 50)
    kinds: list[Schema] = [
        {"type": "string", "maxLength": rng.randrange(12)},
        {"type": "string", "minLength": 2, "maxLength": 5},
        {"type": "string", "pattern": "^[a-z]{1,8}( [a-z]{1,8})?$"},
        {"type": "string", "format": "date"},
        {"enum": rng.sample([*_WORDS, 7, None, True, 2.5], rng.randrange(1, 6))},
        {"const": rng.choice([*_WORDS, 0, None, False, {"a": [1, 2]}])},
        {"type": "integer", "minimum": low, "maximum": low + rng.randrange(100)},
        {"type": "integer", "exclusiveMinimum": low, "maximum": low + 1 + rng.randrange(100)},
        {"type": "number", "minimum": low, "maximum": low + 1.5},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["boolean", "null"]},
    ]
    return rng.choice(kinds)


_WORDS = ["gold", "name", "iron ore", "to", "price", 'quo"te', "back\\slash", "größe", "日本", "🗡"]

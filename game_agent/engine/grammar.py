"""Replies that follow a JSON Schema: which token may come next, and which must.

llguidance does the parsing (https://github.com/guidance-ai/llguidance). Where the grammar leaves
no choice, tokens are *forced*: they join the reply without a forward pass of their own.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
import numpy.typing as npt

from game_agent.errors import GameAgentError, InvalidInput, ModelError
from game_agent.model.runner import ModelRunner

# As Python's and most other writers put it, so that models find what they know.
_STYLE: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # What cannot be kept is refused, not ignored.
    "lenient": False,
    "coerce_one_of": False,
}


_MAX_KEPT = 64


class Grammar:
    """A schema, found to be usable with one model. Immutable; every reply has its own state."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def begin(self) -> Constraint:
        """The state of a reply of which nothing is there yet."""
        return Constraint(self._matcher.deep_copy())


class Constraint:
    """One reply as far as the grammar knows it."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def may_end(self) -> bool:
        """Whether the reply so far is all that the schema asks for."""
        return bool(self._matcher.is_accepting())

    def forced(self) -> list[int]:
        """The tokens that must come next; they are taken as accepted."""
        tokens = self._matcher.compute_ff_tokens()
        if tokens:
            self.accept(tokens)
        return tokens

    def accept(self, tokens: Sequence[int]) -> None:
        """Go on by ``tokens``. Raises :class:`GameAgentError` when the grammar forbids them."""
        self._matcher.consume_tokens(list(tokens))
        self._check()

    def mask(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """[vocab_size] which tokens may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=vocab_size, bitorder="little").view(np.bool_)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GameAgentError(f"the grammar failed: {_first_line(self._matcher.get_error())}")


class GrammarCompiler:
    """Schemas to grammars for one model. The first use costs a look at the whole vocabulary."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()

    def compile(self, schema: Mapping[str, Any], where: str = "schema") -> Grammar:
        """Raises :class:`InvalidInput` for what is no JSON Schema, or one that cannot be kept."""
        if not isinstance(schema, Mapping):
            raise InvalidInput("a JSON Schema is an object", where=where)
        if "x-guidance" in schema:
            raise InvalidInput('"x-guidance" does not belong in a schema here', where=where)
        try:
            source = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"the schema is not plain JSON: {error}", where=where) from None
        with self._lock:
            grammar = self._compiled.pop(source, None) or self._compile(source, where)
            self._compiled[source] = grammar  # the last one used comes last
            if len(self._compiled) > _MAX_KEPT:
                self._compiled.popitem(last=False)
        return grammar

    def _compile(self, source: str, where: str) -> Grammar:
        if self._tokenizer is None:
            self._tokenizer = _load(self._runner)
        tokenizer = self._tokenizer
        try:
            text = llguidance.LLMatcher.grammar_from_json_schema(source, overrides=_STYLE)
        except ValueError as error:
            raise InvalidInput(f"the schema cannot be read: {error}", where=where) from None
        problem = llguidance.LLMatcher.validate_grammar(text, tokenizer)
        if problem and not problem.startswith("WARNING"):
            raise InvalidInput(f"the schema cannot be used: {_first_line(problem)}", where=where)
        grammar = Grammar(llguidance.LLMatcher(tokenizer, text, log_level=0))
        try:
            grammar.begin().forced()
        except GameAgentError as error:  # sound, but beyond the limits of the parser
            raise InvalidInput(f"the schema cannot be used: {error}", where=where) from None
        return grammar


def _load(runner: ModelRunner) -> llguidance.LLTokenizer:
    ends = sorted(runner.stop_token_ids)
    try:
        return llguidance.LLTokenizer(
            runner.tokenizer.backend.to_str(), n_vocab=runner.vocab_size, eos_token=ends or None
        )
    except Exception as error:  # noqa: BLE001 — the library raises nothing narrower
        raise ModelError(f"the model's tokenizer cannot follow a grammar: {error}") from None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]

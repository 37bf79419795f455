"""A checkpoint's tokenizer, in which text can never become a special token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as HfTokenizer

from game_agent.errors import ModelError

Ints = npt.NDArray[np.int32]


class Tokenizer:
    """Two views of one ``tokenizer.json``: plain text in, any token out.

    Text is encoded by a copy without added tokens, so what players and worlds write is inert:
    ``<|end|>`` in a sign's inscription is a few letters, not the end of a turn. Special tokens are
    placed by the runtime's own templates, by id.
    """

    def __init__(self, definition: str, *, name: str = "tokenizer.json") -> None:
        try:
            spec = json.loads(definition)
            self._full = HfTokenizer.from_str(definition)
            spec["added_tokens"] = []
            # Post-processors add special tokens around a text; truncation and padding are not ours.
            spec["post_processor"] = spec["truncation"] = spec["padding"] = None
            self._plain = HfTokenizer.from_str(json.dumps(spec))
        except Exception as error:  # noqa: BLE001 — the library raises nothing narrower
            raise ModelError(f"{name} is not a usable tokenizer: {error}") from None
        self._added = {
            token.content: token_id
            for token_id, token in self._full.get_added_tokens_decoder().items()
        }

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Read ``tokenizer.json``; :class:`ModelError` if it is missing or damaged."""
        path = folder / "tokenizer.json"
        try:
            definition = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from None
        return Tokenizer(definition, name=str(path))

    @property
    def backend(self) -> HfTokenizer:
        """The library's tokenizer with all added tokens, for decoding."""
        return self._full

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, never a special one."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def special(self, content: str) -> int | None:
        """The id of an added token, None where the model has none of that name."""
        return self._added.get(content)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, special ones left out."""
        text: str = self._full.decode(ids, skip_special_tokens=True)
        return text

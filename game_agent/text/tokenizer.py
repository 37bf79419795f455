"""A checkpoint's tokenizer, in which text can never become a special token."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as HfTokenizer

from game_agent.errors import ModelError

Ints = npt.NDArray[np.int32]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # what SentencePiece calls the token of a byte
_MARKUP = frozenset("<>[]|")


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
        added = self._full.get_added_tokens_decoder()
        self._added = {token.content: token_id for token_id, token in added.items()}
        unknown = _unknown(spec["model"])
        # Added tokens that are words or spaces, as some vocabularies have them, are text.
        self._control = {
            token_id: token.content
            for token_id, token in added.items()
            if (token.special or _MARKUP & set(token.content)) and token.content != unknown
        }
        self._reserved = self._control | {
            token_id: name
            for name, token_id in self._plain.get_vocab().items()
            if _BYTE.fullmatch(name)
        }

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Read ``tokenizer.json``; :class:`ModelError` if it is missing or damaged."""
        path = folder / "tokenizer.json"
        try:
            definition = path.read_text("utf-8")
        except FileNotFoundError:
            raise ModelError(
                f"{path} does not exist; download it again, or where there is only a "
                "tokenizer.model, convert it with transformers: "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from None
        return Tokenizer(definition, name=str(path))

    @property
    def backend(self) -> HfTokenizer:
        """The library's tokenizer with all added tokens, for decoding."""
        return self._full

    @property
    def specials(self) -> Collection[str]:
        """The contents of all added tokens."""
        return self._added.keys()

    @property
    def highest(self) -> int:
        """The highest id that text can have, -1 without a vocabulary."""
        return max(self._plain.get_vocab().values(), default=-1)

    def normalized(self, text: str) -> str:
        """``text`` as the model reads it, letters that count as others replaced."""
        normalizer = self._plain.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, never a special one."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._reserved.keys().isdisjoint(ids):
            return ids
        broken = self._broken(text, encoding)
        if broken != text:
            ids = self._plain.encode(broken, add_special_tokens=False).ids
        return [token for token in ids if token not in self._control]

    def _broken(self, text: str, encoding: Encoding) -> str:
        """``text`` with a space inside each word that is the name of a reserved token.

        Some vocabularies have those names among their words (SentencePiece's Unigram models do), so
        that text can become such a token without any added tokens.
        """
        cuts = {0, len(text)}
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            name = self._reserved.get(token)
            # A byte's token may also stand for a letter that the vocabulary lacks.
            if name is not None and name in self.normalized(text[start:stop]):
                cuts.add(start + 1)
        return " ".join(text[start:stop] for start, stop in pairwise(sorted(cuts)))

    def special(self, content: str) -> int | None:
        """The id of an added token, None where the model has none of that name."""
        return self._added.get(content)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, special ones left out."""
        text: str = self._full.decode(ids, skip_special_tokens=True)
        return text


def _unknown(model: Mapping[str, Any]) -> str | None:
    """The name of the token for what the vocabulary lacks, which any text may hold."""
    if isinstance(model.get("unk_id"), int):
        return str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token")

"""Made-up words, spelt as those of the lists are: by the one or two letters before each.

Games' names are like that ("non-euclidean", "Microsoft"). A tokenizer cuts them into pieces that
usual words seldom have, and a model that has never copied a piece cannot say it.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

_DATA = files("game_agent").joinpath("data")
# What names are made of, by the name of the list.
WORDS: dict[str, list[str]] = json.loads(_DATA.joinpath("names.json").read_text("utf-8"))
MIN_LETTERS, MAX_LETTERS = 3, 11
FREE_SHARE = 0.3  # of the words, spelt by one letter before: stranger
ACCENTED_SHARE = 0.08
ACCENTS = {"a": "áàâäåã", "c": "ç", "e": "éèêë", "i": "íï", "n": "ñ", "o": "óôöø", "u": "úûü"}
WHOLE_SHARE = 0.2
END = "$"


def spelt(rng: random.Random) -> str:
    """A made-up word of 3 to 11 small letters."""
    order = 1 if rng.random() < FREE_SHARE else 2
    chain, word = _chain(order), ""
    while True:
        letter = rng.choice(chain[word[-order:]])
        if letter != END:
            word += letter
        if len(word) == MAX_LETTERS or (letter == END and len(word) >= MIN_LETTERS):
            return _accented(rng, word) if rng.random() < ACCENTED_SHARE else word
        if letter == END:
            word = ""


def blended(rng: random.Random) -> str:
    """The beginning of one word and the end of another, or a word of names and questions."""
    start, end = rng.choice(_words()), rng.choice(_words())
    if rng.random() < WHOLE_SHARE:
        return start
    return start[: rng.randint(1, 6)] + end[-rng.randint(2, 6) :]


def _accented(rng: random.Random, word: str) -> str:
    """One letter of ``word`` with an accent, where one of them can have it."""
    letter = rng.choice(word)
    return word.replace(letter, rng.choice(ACCENTS.get(letter, letter)), 1)


@cache
def _chain(order: int) -> Mapping[str, Sequence[str]]:
    """The letters that follow up to ``order`` letters, as often as they do in the words."""
    follow: defaultdict[str, list[str]] = defaultdict(list)
    for word in _words():
        for i, letter in enumerate(word + END):
            follow[word[max(0, i - order) : i]].append(letter)
    return follow


@cache
def _words() -> Sequence[str]:
    """What stands in names and in questions, in small letters, each once."""
    texts = (_DATA.joinpath(name).read_text("utf-8") for name in ("names.json", "wordings.json"))
    found = {word for text in texts for word in re.findall("[a-z]+", text.lower())}
    return sorted(word for word in found if len(word) >= MIN_LETTERS)

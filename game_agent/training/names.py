"""Names for made-up worlds: people, places, things, each used once in a scene."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from string import ascii_uppercase
from typing import Literal

from game_agent.training.spelling import WORDS, blended, spelt

Split = Literal["train", "test"]

HELD_OUT_ONE_IN = 10
# Shares of the adjectives: numbered, longer, those of another name (a key and its chest are often
# called alike), made up. The rest are words of the list.
TYPED, LONG, SHARED, MADE_UP = 0.06, 0.09, 0.12, 0.13


def is_held_out(name: str) -> bool:
    """Whether ``name`` is kept for tests: about one in ten, by its hash, never a plain noun."""
    if name.islower() and " " not in name:
        return False
    return zlib.crc32(name.encode()) % HELD_OUT_ONE_IN == 0


def the(name: str) -> str:
    """``name`` with its article, unless it is a proper name."""
    return name if all(word[0].isupper() for word in name.split()) else f"the {name}"


def spoken_list(names: list[str]) -> str:
    """``the old key, the apple and the map``; ``nothing`` when empty."""
    texts = [the(name) for name in names]
    if not texts:
        return "nothing"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if texts[1:] else texts)


class Names:
    """Draws names, none twice. In the test split, names are ones that training never draws."""

    def __init__(self, rng: random.Random, split: Split = "train") -> None:
        self._rng = rng
        self._split = split
        self._used: set[str] = set()
        self._adjectives: list[str] = []

    def person(self) -> str:
        return self._take(self._person)

    def thing(self) -> str:
        return self._take(lambda: self._described(WORDS["things"], plain=0.25))

    def furniture(self) -> str:
        return self._take(lambda: self._described(WORDS["furniture"], plain=0.5))

    def container(self) -> str:
        return self._take(lambda: self._described(WORDS["containers"], plain=0.5))

    def door(self) -> str:
        return self._take(lambda: self._described(WORDS["doors"], plain=0.1))

    def room(self) -> str:
        return self._take(lambda: self._described(WORDS["rooms"], plain=0.75))

    def place(self) -> str:
        return self._take(lambda: self._described(WORDS["places"], plain=0.4))

    def beast(self) -> str:
        return self._take(lambda: self._described(WORDS["beasts"], plain=0.3))

    def town(self) -> str:
        return self._take(self._town)

    def quest(self) -> str:
        return self._take(self._quest)

    def _take(self, draw: Callable[[], str]) -> str:
        # A scene may want more names of one sort than its words give: then a made-up word helps.
        for attempt in range(1000):
            name = draw() if attempt < 40 else f"{self._nonce()} {draw()}"
            if name not in self._used and is_held_out(name) == (self._split == "test"):
                self._used.add(name)
                return name
        raise RuntimeError("a thousand draws gave no new name")

    def _person(self) -> str:
        pick = self._rng.choice
        if self._rng.random() < 0.2:
            return self._nonce().capitalize()
        middle = pick(WORDS["person_middles"]) if self._rng.random() < 0.6 else ""
        return (pick(WORDS["person_starts"]) + middle + pick(WORDS["person_ends"])).capitalize()

    def _described(self, nouns: list[str], *, plain: float) -> str:
        pick, draw = self._rng.choice, self._rng.random
        noun = pick(nouns) if draw() > 0.12 else self._made_up_noun()
        if draw() < plain and self._split == "train":
            return noun
        adjective = self._adjective()
        self._adjectives.append(adjective)
        return f"{adjective} {noun}"

    def _adjective(self) -> str:
        pick, draw = self._rng.choice, self._rng.random()
        if draw < TYPED:
            return f"type {pick((pick(ascii_uppercase), str(self._rng.randint(1, 20))))}"
        draw -= TYPED
        if draw < LONG:
            return self._long_adjective()
        draw -= LONG
        if draw < SHARED and self._adjectives:
            return pick(self._adjectives)
        if draw > SHARED + MADE_UP:
            return pick(WORDS["adjectives"])
        return self._nonce() if self._rng.random() < 0.7 else self._nonce().capitalize()

    def _long_adjective(self) -> str:
        pick, word, made_up = self._rng.choice, self._rng.choice(WORDS["adjectives"]), self._nonce()
        other = pick((self._nonce(), pick(WORDS["adjectives"])))
        proper = made_up.capitalize()
        return pick(
            (
                f"{word}-{other}",
                f"{made_up}-{other}",
                f"{word} {other}",
                f"{proper} style",
                f"{proper}{other.capitalize()} style",
                f"{proper}'s {other}",
                f"{proper} {other} {self._nonce()}",
            )
        )

    def _made_up_noun(self) -> str:
        noun = self._nonce()
        draw = self._rng.random()
        if draw < 0.15:
            return f"{self._rng.choice(('pair', 'bag', 'box', 'loaf', 'set'))} of {noun}"
        return f"{noun} {self._rng.choice(WORDS['things'])}" if draw < 0.3 else noun

    def _town(self) -> str:
        return self._rng.choice(WORDS["town_starts"]) + self._rng.choice(WORDS["town_ends"])

    def _quest(self) -> str:
        adjective, noun = (
            self._rng.choice(WORDS[f"quest_{kind}"]) for kind in ("adjectives", "nouns")
        )
        return f"The {adjective} {noun}"

    def _nonce(self) -> str:
        """A made-up word: what the model can only copy."""
        pick, draw, consonants = self._rng.choice, self._rng.random(), WORDS["consonants"]
        if draw < 0.35:
            return spelt(self._rng)
        if draw < 0.7:
            return blended(self._rng)
        syllables = (
            pick(consonants) + pick(WORDS["vowels"]) for _ in range(self._rng.randint(2, 3))
        )
        return "".join(syllables) + (pick(consonants[:18]) if self._rng.random() < 0.5 else "")

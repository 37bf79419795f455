"""Whether a reply is right: the metrics of the Block-Attention paper.

Normalisation is that of SQuAD (Rajpurkar et al., 2016), token F1 its formula. ``substring_match``
is the paper's Substr-EM (arXiv 2409.15355), which is ``best_subspan_em`` of Lost in the Middle
(arXiv 2307.03172): a reply is right if it holds one of the answers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Scores:
    """Of one reply, each from 0 to 1; means of many are of the same form."""

    substring: float
    f1: float
    exact: float

    @property
    def values(self) -> tuple[float, float, float]:
        return self.substring, self.f1, self.exact


TITLES = ("Substr-EM", "F1", "exact")


def score(reply: str, answers: Sequence[str]) -> Scores:
    """The best of ``answers`` (at least one) counts, for each metric."""
    return Scores(substring_match(reply, answers), token_f1(reply, answers), exact(reply, answers))


def normalize(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, words one space apart."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def substring_match(reply: str, answers: Sequence[str]) -> float:
    """1 if a normalised answer is part of the normalised reply.

    An answer of which nothing is left ("The") is in every reply, as in the paper's program.
    """
    normal = normalize(reply)
    return float(any(normalize(answer) in normal for answer in answers))


def exact(reply: str, answers: Sequence[str]) -> float:
    """1 if a normalised answer is the normalised reply."""
    normal = normalize(reply)
    return float(any(normalize(answer) == normal for answer in answers))


def token_f1(reply: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the normalised reply's words, repeats counted.

    Where nothing is left of one of the two it is whether nothing is left of both, as in SQuAD 2.
    """
    return max(_f1(normalize(reply).split(), normalize(answer).split()) for answer in answers)


def _f1(reply: list[str], answer: list[str]) -> float:
    num_common = (Counter(reply) & Counter(answer)).total()
    if not reply or not answer:
        return float(reply == answer)
    return 2 * num_common / (len(reply) + len(answer))

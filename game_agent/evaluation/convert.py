"""Published question answering data sets to records: passages become blocks.

HotpotQA and 2WikiMultiHopQA in their own form; Natural Questions and TriviaQA with retrieved
passages, as DPR, Fusion-in-Decoder and Lost in the Middle publish them; TriviaQA in its own form;
NarrativeQA's questions on its summaries. Passages keep the file's order: a retriever's, mostly.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from game_agent.errors import InvalidInput
from game_agent.evaluation.published import Item, read_items
from game_agent.evaluation.records import OnBadData, Record, Records, parse_value
from game_agent.text.segmenting import segment


@dataclass(frozen=True)
class Options:
    """How a file is read.

    passages: only the first so many of each question; None: all
    evidence: TriviaQA: the folder with ``web`` and ``wikipedia``; NarrativeQA: ``summaries.csv``
    words:    of a document of TriviaQA, only the first so many
    split:    NarrativeQA: ``train``, ``valid`` or ``test`` only
    """

    passages: int | None = None
    evidence: Path | None = None
    words: int = 400
    split: str | None = None


class Source(ABC):
    """Questions of one file, item by item. Methods raise ``ValueError`` saying what is wrong."""

    required: Collection[str] = ()
    optional: Collection[str] = ()

    def __init__(self, file: Path, options: Options) -> None:
        self.file = file
        self.options = options

    def wanted(self, item: Item) -> bool:
        """Whether the question belongs to what is asked for."""
        return True

    @abstractmethod
    def record(self, item: Item, number: int) -> dict[str, Any]:
        """The record's fields."""

    def check(self, item: Item) -> None:
        """Raises ``ValueError`` for keys that are missing or unknown."""
        missing = [key for key in self.required if key not in item]
        unknown = [key for key in item if key not in (*self.required, *self.optional)]
        for what, keys in (("lacks", missing), ("has the unknown key", unknown)):
            if keys:
                raise ValueError(
                    f"it {what} {', '.join(map(repr, keys))}; needed are "
                    f"{', '.join(self.required)} (is it a file of this data set? test sets without "
                    "answers cannot be used)"
                )


class Paragraphs(Source):
    """HotpotQA and 2WikiMultiHopQA: paragraphs are ``[title, [sentence, …]]``."""

    required = ("_id", "question", "answer", "context")
    optional = (
        *("supporting_facts", "type", "level", "evidences"),
        *("evidences_id", "answer_id", "entity_ids"),
    )

    def record(self, item: Item, number: int) -> dict[str, Any]:
        passages = [_passage(title, "".join(sentences)) for title, sentences in item["context"]]
        return {
            "id": item["_id"],
            "blocks": passages[: self.options.passages],
            "question": item["question"],
            "answers": [item["answer"]],
            "type": item.get("type", ""),
        }


class Retrieved(Source):
    """Questions with a retriever's passages: ``ctxs`` with ``title`` and ``text`` each."""

    required = ("question", "answers", "ctxs")
    optional = ("id", "target", "answer", "dataset", "nq_annotated_gold")

    def record(self, item: Item, number: int) -> dict[str, Any]:
        passages = [_passage(each["title"], each["text"]) for each in item["ctxs"]]
        return {
            "id": item.get("id", str(number)),
            "blocks": passages[: self.options.passages],
            "question": item["question"],
            "answers": item["answers"],
        }


class Trivia(Source):
    """TriviaQA's own form: the pages and search results of a question, their texts in files.

    Without a folder of evidence the passages are the descriptions of search results.
    """

    required = ("Question", "QuestionId", "Answer")
    optional = (
        *("EntityPages", "SearchResults", "QuestionSource"),
        *("QuestionPartOfVerifiedEval", "QuestionVerifiedEvalAttempt"),
    )

    def record(self, item: Item, number: int) -> dict[str, Any]:
        passages = list(self._passages(item))
        if not passages:
            raise ValueError("it has no descriptions of search results; give --evidence FOLDER")
        answer = item["Answer"]
        return {
            "id": item["QuestionId"],
            "blocks": passages[: self.options.passages],
            "question": item["Question"],
            "answers": list(dict.fromkeys([answer["Value"], *answer.get("Aliases", [])])),
        }

    def _passages(self, item: Item) -> Iterator[str]:
        results = item.get("SearchResults", [])
        if self.options.evidence is None:
            yield from (
                _passage(r["Title"], r["Description"]) for r in results if "Description" in r
            )
            return
        for folder, pages in (("wikipedia", item.get("EntityPages", [])), ("web", results)):
            for page in pages:
                yield _passage(page["Title"], self._document(folder, page["Filename"]))

    def _document(self, folder: str, name: str) -> str:
        assert self.options.evidence is not None
        home = (self.options.evidence / folder).resolve()
        path = (home / name).resolve()
        if not path.is_relative_to(home):
            raise ValueError(f"{name!r} lies outside of {home}")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"its document cannot be read: {error}") from None
        return " ".join(text.split()[: self.options.words])


class Narrative(Source):
    """NarrativeQA: ``qaps.csv``, and the summaries that the questions were asked on."""

    required = ("document_id", "set", "question", "answer1", "answer2")
    optional = ("question_tokenized", "answer1_tokenized", "answer2_tokenized")

    def wanted(self, item: Item) -> bool:
        return self.options.split in (None, item["set"])

    def record(self, item: Item, number: int) -> dict[str, Any]:
        summary = self._summaries.get(item["document_id"])
        if summary is None:
            raise ValueError(f"there is no summary of the document {item['document_id']!r}")
        return {
            "id": str(number),
            "blocks": segment(summary)[: self.options.passages],
            "question": item["question"],
            "answers": list(dict.fromkeys([item["answer1"], item["answer2"]])),
        }

    @cached_property
    def _summaries(self) -> dict[str, str]:
        """By document, from ``summaries.csv``: where it lies in the repository, or beside."""
        beside = self.file.parent
        places = (beside / "third_party" / "wikipedia" / "summaries.csv", beside / "summaries.csv")
        path = self.options.evidence or next((p for p in places if p.exists()), places[0])
        rows = [row for _, row in read_items(path)]
        if any("document_id" not in row or "summary" not in row for row in rows):
            raise InvalidInput(f"{path} must have the columns document_id and summary")
        return {row["document_id"]: row["summary"].strip() for row in rows}


def _trivia(file: Path, options: Options) -> Source:
    """TriviaQA is published in both forms; the first item tells."""
    first = next((item for _, item in read_items(file)), {})
    return Trivia(file, options) if "Question" in first else Retrieved(file, options)


SOURCES: dict[str, Callable[[Path, Options], Source]] = {
    "2wiki": Paragraphs,
    "hotpotqa": Paragraphs,
    "nq": Retrieved,
    "triviaqa": _trivia,
    "narrativeqa": Narrative,
}


def convert(
    name: str,
    file: Path,
    options: Options | None = None,
    *,
    on_bad_data: OnBadData = "stop",
    limit: int | None = None,
) -> Records:
    """Records of a published file; ``name`` is a key of ``SOURCES``.

    Raises :class:`InvalidInput`: for an unknown name, a file that cannot be read, the first item
    that is not of the published form (with ``stop``), and if no record comes of it.
    """
    if name not in SOURCES:
        raise InvalidInput(f"there is no data set {name!r}; there are {', '.join(SOURCES)}")
    source = SOURCES[name](file, options or Options())
    records: dict[str, Record] = {}
    bad = []
    for number, (where, item) in enumerate(read_items(file), 1):
        if limit is not None and len(records) >= limit:
            break
        try:
            source.check(item)
            if source.wanted(item):
                record = _record(source, item, number)
                if record.id in records:
                    record = replace(record, id=f"{record.id}/{number}")
                records[record.id] = record
        except ValueError as error:
            bad.append(f"{where}: {error}")
            if on_bad_data == "stop":
                raise InvalidInput(f"{bad[0]}. To leave it out: --on-bad-data skip") from None
    if not records:
        raise InvalidInput(f"nothing in {file} could be used" + (f": {bad[0]}" if bad else ""))
    return Records(list(records.values()), bad)


def _record(source: Source, item: Item, number: int) -> Record:
    """Raises ``ValueError``, also for values of a wrong kind."""
    try:
        return parse_value(source.record(item, number), str(number))
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"its values are not of the published form ({error!r})") from None


def write_records(records: Collection[Record], path: Path) -> None:
    """Write JSONL that :func:`read_records` reads; there is nothing or the whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
    part.replace(path)


def _passage(title: str, text: str) -> str:
    """The wording of passages in the paper's data; the prompt format writes the dash before it."""
    return f"Title: {title}\n{text.strip()}"

"""Data sets in the form in which they are published, made up in small."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from game_agent import cli
from game_agent.errors import InvalidInput
from game_agent.evaluation.convert import Options, convert, write_records
from game_agent.evaluation.records import Record, read_records

HOTPOT = {
    "_id": "5a8b",
    "answer": "yes",
    "question": "Were Ann Lee and Bo Fry of the same nationality?",
    "supporting_facts": [["Ann Lee", 0], ["Bo Fry", 0]],
    "context": [
        ["Ann Lee", ["Ann Lee is an American director.", " She lives in Rome."]],
        ["Bo Fry", ["Bo Fry was an American actor."]],
    ],
    "type": "comparison",
    "level": "hard",
}
TWO_WIKI = {
    "_id": "8813",
    "type": "compositional",
    "question": "Who is the mother of the director of Dunes?",
    "context": [["Dunes", ["Dunes is a film by Kay Ott. "]], ["Kay Ott", ["Her mother is May."]]],
    "supporting_facts": [["Dunes", 0], ["Kay Ott", 0]],
    "evidences": [["Dunes", "director", "Kay Ott"]],
    "answer": "May",
}
LOST_IN_THE_MIDDLE = {
    "question": "who got the first prize",
    "answers": ["Wilhelm Roe"],
    "ctxs": [
        {
            "id": "71445",
            "title": "List of laureates",
            "text": "The first prize went to Wilhelm Roe.",
            "score": "1.05",
            "hasanswer": True,
            "original_retrieval_index": 0,
            "isgold": True,
        },
        {"id": "2", "title": "Prize", "text": "A prize is given.", "score": "1", "isgold": False},
    ],
    "nq_annotated_gold": {"title": "t", "long_answer": "a", "short_answers": ["Wilhelm Roe"]},
}
DPR = {
    "question": "who sang it",
    "answers": ["Mo", "Mo Ray"],
    "ctxs": [
        {"id": "1", "title": "It", "text": "Mo sang it.", "score": "80.1", "has_answer": True}
    ],
}
FID = {"id": "0", **DPR, "target": "Mo"}
TRIVIA = {
    "Answer": {
        "Aliases": ["Po (element)", "Polonium"],
        "MatchedWikiEntityName": "Polonium",
        "NormalizedAliases": ["po element", "polonium"],
        "NormalizedValue": "polonium",
        "Type": "WikipediaEntity",
        "Value": "Polonium",
    },
    "EntityPages": [{"DocSource": "TagMe", "Filename": "Marie.txt", "Title": "Marie Curie"}],
    "Question": "Which element did Marie Curie name after her land?",
    "QuestionId": "tc_33",
    "QuestionSource": "http://www.triviacountry.com/",
    "SearchResults": [
        {
            "Description": "She named Polonium after Poland.",
            "DisplayUrl": "example.org",
            "Filename": "12/12_34.txt",
            "Rank": 0,
            "Title": "Who was she?",
            "Url": "http://example.org",
        }
    ],
}
QAPS = {
    "document_id": "d1",
    "set": "test",
    "question": "Who opens the play?",
    "answer1": "the actor",
    "answer2": "An actor in a cloak",
    "question_tokenized": "Who opens the play ?",
    "answer1_tokenized": "the actor",
    "answer2_tokenized": "An actor in a cloak",
}
SUMMARY = {
    "document_id": "d1",
    "set": "test",
    "summary": ' The play begins.\n\nAn actor, "in a cloak", opens it.',
    "summary_tokenized": "…",
}


def write_json(path: Path, value: object) -> Path:
    data = json.dumps(value).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def only(name: str, file: Path, options: Options | None = None) -> Record:
    (record,) = convert(name, file, options).records
    return record


def test_hotpotqa(tmp_path: Path) -> None:
    record = only("hotpotqa", write_json(tmp_path / "hotpot_dev_distractor_v1.json", [HOTPOT]))
    assert record == Record(
        "5a8b",
        (
            "Title: Ann Lee\nAnn Lee is an American director. She lives in Rome.",
            "Title: Bo Fry\nBo Fry was an American actor.",
        ),
        "Were Ann Lee and Bo Fry of the same nationality?",
        ("yes",),
        "comparison",
    )


def test_two_wiki(tmp_path: Path) -> None:
    file = write_json(tmp_path / "dev.json.gz", [TWO_WIKI, {**TWO_WIKI, "_id": "2"}])
    first, _ = convert("2wiki", file, Options(passages=1)).records
    assert first.blocks == ("Title: Dunes\nDunes is a film by Kay Ott.",)
    assert (first.answers, first.type) == (("May",), "compositional")
    assert len(convert("2wiki", file, limit=1).records) == 1


def test_natural_questions(tmp_path: Path) -> None:
    file = tmp_path / "nq-open-10_total_documents_gold_at_0.jsonl.gz"
    lines = "\n".join(json.dumps(LOST_IN_THE_MIDDLE) for _ in range(2)) + "\n"
    file.write_bytes(gzip.compress(lines.encode()))
    first, second = convert("nq", file).records
    assert first.blocks[0] == "Title: List of laureates\nThe first prize went to Wilhelm Roe."
    assert (first.id, second.id) == ("1", "2")
    assert only("nq", write_json(tmp_path / "nq-test.json", [DPR])).answers == ("Mo", "Mo Ray")
    assert only("nq", write_json(tmp_path / "test.json", [FID])).id == "0"


def test_trivia(tmp_path: Path) -> None:
    assert only("triviaqa", write_json(tmp_path / "test.json", [FID])).question == "who sang it"
    file = write_json(tmp_path / "web-dev.json", {"Data": [TRIVIA], "Domain": "Web", "Version": 1})
    record = only("triviaqa", file)
    assert record.id == "tc_33"
    assert record.blocks == ("Title: Who was she?\nShe named Polonium after Poland.",)
    assert record.answers == ("Polonium", "Po (element)")
    for name, text in (
        ("wikipedia/Marie.txt", "Marie\nCurie was born."),
        ("web/12/12_34.txt", "x"),
    ):
        path = tmp_path / "evidence" / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    options = Options(evidence=tmp_path / "evidence", words=2)
    assert only("triviaqa", file, options).blocks == (
        "Title: Marie Curie\nMarie Curie",
        "Title: Who was she?\nx",
    )
    (tmp_path / "evidence" / "web" / "12" / "12_34.txt").unlink()
    with pytest.raises(InvalidInput, match="item 1: its document cannot be read"):
        convert("triviaqa", file, options)
    outside = {**TRIVIA, "EntityPages": [{"Filename": "../../x.txt", "Title": "x"}]}
    with pytest.raises(InvalidInput, match="lies outside of"):
        convert("triviaqa", write_json(tmp_path / "o.json", {"Data": [outside]}), options)
    bare = {key: value for key, value in TRIVIA.items() if key != "SearchResults"}
    with pytest.raises(InvalidInput, match="give --evidence FOLDER"):
        convert("triviaqa", write_json(tmp_path / "bare.json", {"Data": [bare]}))


def test_narrative(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "qaps.csv", [QAPS, {**QAPS, "set": "train", "question": "Why?"}])
    with pytest.raises(InvalidInput, match=r"third_party.*summaries.csv cannot be read"):
        convert("narrativeqa", file)
    write_csv(tmp_path / "third_party" / "wikipedia" / "summaries.csv", [SUMMARY])
    record = only("narrativeqa", file, Options(split="test"))
    assert record.blocks == ("The play begins.\n\n", 'An actor, "in a cloak", opens it.')
    assert record.answers == ("the actor", "An actor in a cloak")
    assert len(convert("narrativeqa", file).records) == 2
    with pytest.raises(InvalidInput, match="nothing in .* could be used"):
        convert("narrativeqa", file, Options(split="valid"))
    other = write_csv(tmp_path / "other.csv", [{**SUMMARY, "document_id": "d2"}])
    with pytest.raises(InvalidInput, match="line 2: there is no summary of the document 'd1'"):
        convert("narrativeqa", file, Options(evidence=other))
    with pytest.raises(InvalidInput, match="must have the columns document_id and summary"):
        convert("narrativeqa", file, Options(evidence=file))


@pytest.mark.parametrize(
    ("name", "item", "message"),
    [
        ("hotpotqa", LOST_IN_THE_MIDDLE, "it lacks '_id', 'answer', 'context'; needed are _id"),
        ("hotpotqa", {**HOTPOT, "ctx": 1}, "it has the unknown key 'ctx'"),
        ("nq", {**DPR, "ctxs": [{"title": "x"}]}, "not of the published form .*'text'"),
        ("nq", {**DPR, "ctxs": 3}, "not of the published form"),
        ("nq", {**DPR, "answers": []}, '"answers" is empty'),
        ("2wiki", {**TWO_WIKI, "context": []}, '"blocks" is empty'),
        ("2wiki", {**TWO_WIKI, "answer": None}, r'"answers\[0\]" must be a text'),
        ("2wiki", 3, "must be a JSON object"),
    ],
)
def test_what_is_not_of_the_published_form(
    tmp_path: Path, name: str, item: Any, message: str
) -> None:
    file = write_json(tmp_path / "dev.json", [item])
    with pytest.raises(InvalidInput, match=rf"dev.json, item 1.*{message}"):
        convert(name, file)


def test_bad_items_can_be_left_out(tmp_path: Path) -> None:
    file = write_json(tmp_path / "dev.json", [HOTPOT, {}, {**HOTPOT, "_id": "2"}, HOTPOT])
    found = convert("hotpotqa", file, on_bad_data="skip")
    assert [record.id for record in found.records] == ["5a8b", "2", "5a8b/4"]
    assert len(found.bad) == 1
    assert "dev.json, item 2: it lacks" in found.bad[0]


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("a.parquet", b"", "must end with .json, .jsonl, .csv"),
        ("a.json", b"[", "cannot be read as .json"),
        ("a.json", b'{"x": 1}', "must hold an array"),
        ("a.json.gz", b"[]", "cannot be read as .json"),
        ("a.jsonl", b"\xff", "cannot be read as .jsonl"),
        ("a.csv", b'a,b\n"x', "cannot be read as .csv"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, file: str, data: bytes, message: str) -> None:
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=message):
        convert("nq", path)


def test_the_command(tmp_path: Path) -> None:
    file = write_json(tmp_path / "dev.json", [HOTPOT, {}])
    out = tmp_path / "new" / "records.jsonl"
    args = ["convert", "hotpotqa", str(file), str(out)]
    refused = CliRunner().invoke(cli.app, args)
    assert isinstance(refused.exception, InvalidInput)
    assert not out.exists()
    result = CliRunner().invoke(cli.app, [*args, "--on-bad-data", "skip", "--passages", "1"])
    assert result.exit_code == 0, result.output
    assert "1 records" in result.output
    (record,) = read_records(out).records
    assert len(record.blocks) == 1
    with pytest.raises(InvalidInput, match="no data set 'squad'; there are 2wiki"):
        convert("squad", file)


def test_records_are_written_as_they_are_read(tmp_path: Path) -> None:
    records = [
        Record("1", ("a\u2028b", "é\n"), "q?", ("x", "y"), "t"),
        Record("2", ("a",), "q", ("x",)),
    ]
    write_records(records, tmp_path / "r.jsonl")
    assert read_records(tmp_path / "r.jsonl").records == records

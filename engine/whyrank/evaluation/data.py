"""Judged data, one topic at a time: a query, its candidates in the first stage's order, and how good they are.

Two kinds of source. A BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv (or qrels.txt as TREC has it), and a first
stage, which is a TREC run or MTEB's top_ranked, given or found in the folder. Or one file of JSON lines that hold
everything: {query, positive, negative}, or {query, candidates: [{id, text, grade or label}]}, best first.
"""

from __future__ import annotations

import array
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from whyrank.errors import DataError
from whyrank.evaluation.corpus import Corpus
from whyrank.evaluation.files import Line, check_id, fingerprint, json_object, numbered_lines
from whyrank.evaluation.trec import FirstStage, RunFile, TopRanked, read_qrels
from whyrank.types import Document

__all__ = ["LABELS", "BeirFolder", "Candidate", "Collection", "JsonLines", "Topic", "open_collection"]

LABELS: Mapping[str, int] = {"evidence": 2, "related": 1, "irrelevant": 0}
"""Grades of candidates that have a label in words."""

_LISTED = ("candidates", "hits", "chunks")
"""Candidates in the first stage's order, under the names that are in use."""
_LISTS = frozenset(("positive", "negative"))
"""Candidates in no order."""


@dataclass(frozen=True, slots=True)
class Candidate:
    document: Document
    first_score: float | None = None

    @property
    def id(self) -> str:
        return self.document.id or ""


@dataclass(frozen=True, slots=True)
class Topic:
    """`judged`: document id → grade, for documents that were not found, too. `answers`: gold answers, where there are any."""

    id: str
    query: str
    candidates: tuple[Candidate, ...] = ()
    judged: Mapping[str, int] = field(default_factory=dict)
    answers: tuple[str, ...] = ()


class Collection(Protocol):
    """`first_stage` is None where the candidates have no order of their own. `fingerprint` changes when the data do.
    `judgements`: the file that holds them."""

    name: str
    first_stage: str | None
    fingerprint: str
    judgements: Path
    highest_grade: int

    @property
    def topic_ids(self) -> Sequence[str]: ...

    def topic(self, ident: str, top_k: int) -> Topic: ...


def open_collection(path: Path, run: Path | None = None, split: str = "test") -> Collection:
    if path.is_dir():
        return BeirFolder(path, run, split)
    if run is not None:
        raise DataError(f"{path}: JSON lines bring their own candidates; --run goes with a BEIR folder")
    return JsonLines(path)


class BeirFolder:
    def __init__(self, folder: Path, run: Path | None = None, split: str = "test") -> None:
        corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
        qrels = _first_there(folder, f"qrels/{split}.tsv", f"qrels/{split}.txt", "qrels.txt", "qrels.tsv")
        ranked = run or _first_there(
            folder, "run.trec", f"top_ranked/{split}.jsonl", "top_ranked.jsonl", "top_ranked.json"
        )
        self.name = folder.resolve().name
        self.first_stage: str | None = ranked.name
        self._judged, first_lines = read_qrels(qrels)
        self.judgements = qrels
        self.highest_grade = max(max(grades.values()) for grades in self._judged.values())
        self._queries = _read_queries(queries, self._judged)
        for query, line in first_lines.items():
            if query not in self._queries:
                raise DataError(f"{line.where}: query {query!r} is not in {queries}")
        self._corpus = Corpus(corpus)
        kind: type[RunFile] | type[TopRanked] = TopRanked if ranked.suffix in (".json", ".jsonl") else RunFile
        self._found: FirstStage = kind(ranked, self._corpus.missing)
        self.fingerprint = fingerprint(corpus, queries, qrels, ranked)

    @property
    def topic_ids(self) -> Sequence[str]:
        """Every judged query, in the qrels' order. One that the first stage missed has no candidates and counts as zero."""
        return list(self._judged)

    def topic(self, ident: str, top_k: int) -> Topic:
        """A document with the query's own id is left out, as BEIR does."""
        found = [pair for pair in self._found.found(ident) if pair[0] != ident][:top_k]
        documents = self._corpus.documents(document for document, _ in found)
        candidates = tuple(Candidate(document, score) for document, (_, score) in zip(documents, found, strict=True))
        query, answers = self._queries[ident]
        return Topic(ident, query, candidates, self._judged[ident], answers)


def _first_there(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: has none of {', '.join(names)}")


def _read_queries(path: Path, judged: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Text and gold answers of the judged queries; the others are of no use."""
    queries: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in numbered_lines(path):
        record = json_object(line)
        ident = check_id(_text(record, "_id", line), line.where)
        if ident in queries:
            raise DataError(f"{line.where}: query {ident!r} is there a second time")
        if ident in judged:
            queries[ident] = _text(record, "text", line), _answers(record, line)
    return queries


class JsonLines:
    """Queries with all their texts. Documents without an id are named after their text, so that names tell no grade."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._path = self.judgements = path
        self.highest_grade = 0
        self._lines: dict[str, int] = {}
        self._starts = array.array("q")
        listed = True
        for line in numbered_lines(path):
            topic = _json_topic(line)
            self.highest_grade = max(self.highest_grade, *topic.judged.values(), 0)
            listed &= _LISTS.isdisjoint(json_object(line))
            if topic.id in self._lines:
                raise DataError(f"{line.where}: query id {topic.id!r} is there a second time")
            self._lines[topic.id] = len(self._starts) // 2
            self._starts.extend((line.start, line.number))
        if not self._lines:
            raise DataError(f"{path}: holds no queries")
        self.first_stage: str | None = "the order in the file" if listed else None
        self.fingerprint = fingerprint(path)

    @property
    def topic_ids(self) -> Sequence[str]:
        return list(self._lines)

    def topic(self, ident: str, top_k: int) -> Topic:
        start, number = self._starts[2 * self._lines[ident] :][:2]
        with self._path.open("rb") as file:
            file.seek(start)
            topic = _json_topic(Line(self._path, number, file.readline().decode("utf-8-sig")))
        return Topic(topic.id, topic.query, topic.candidates[:top_k], topic.judged, topic.answers)


def _json_topic(line: Line) -> Topic:
    record = json_object(line)
    query = _text(record, "query", line)
    ident = next((str(record[name]) for name in ("id", "query_id") if isinstance(record.get(name), str | int)), None)
    documents: dict[str, Document] = {}
    judged: dict[str, int] = {}
    for document, grade in _json_candidates(record, line):
        name = document.id or ""
        if documents.setdefault(name, document) != document:
            raise DataError(f"{line.where}: two different documents have the id {name!r}")
        if grade is not None and judged.setdefault(name, grade) != grade:
            raise DataError(f"{line.where}: the document {document.text[:40]!r} is judged twice, differently")
    # Positives stand first in such files. In that order a model that answers always the same would look perfect.
    names = (
        documents if _LISTS.isdisjoint(record) else sorted(documents, key=lambda name: _text_id(documents[name].text))
    )
    candidates = tuple(Candidate(documents[name]) for name in names)
    ident = check_id(ident, line.where) if ident else str(line.number)
    return Topic(ident, query, candidates, judged, _answers(record, line))


def _json_candidates(record: dict[str, Any], line: Line) -> list[tuple[Document, int | None]]:
    given = [*((name, None) for name in _LISTED), ("positive", 1), ("negative", 0)]
    if not any(name in record for name, _ in given):
        raise DataError(f"{line.where}: no 'positive', 'negative' or 'candidates'; its keys are {sorted(record)}")
    return [
        _json_candidate(item, grade, f"{line.where}: {name}[{at}]")
        for name, grade in given
        for at, item in enumerate(_listed(record.get(name, []), name, line))
    ]


def _json_candidate(item: Any, grade: int | None, where: str) -> tuple[Document, int | None]:
    record = {"text": item} if isinstance(item, str) else item
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise DataError(f"{where}: neither a string nor an object with a 'text'")
    ident = next((str(record[name]) for name in ("id", "chunk_id", "_id") if record.get(name) is not None), None)
    # No other key: a grade must not reach a prompt.
    known = {name: record.get(name) for name in ("text", "title", "metadata")}
    ident = check_id(ident, where) if ident else _text_id(record["text"])
    document = Document.of({**known, "id": ident}, where)
    judged = record.get("grade", record.get("label", grade))
    if isinstance(judged, str):
        if judged not in LABELS:
            raise DataError(f"{where}: label {judged!r} is none of {', '.join(LABELS)}; give a whole number as 'grade'")
        judged = LABELS[judged]
    if judged is not None and not isinstance(judged, int):
        raise DataError(f"{where}: grade {judged!r} is not a whole number")
    return document, judged


def _text_id(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def _text(record: dict[str, Any], name: str, line: Line) -> str:
    if not isinstance(record.get(name), str) or not record[name].strip():
        raise DataError(f"{line.where}: no {name!r} with a string; its keys are {sorted(record)}")
    return str(record[name])


def _answers(record: dict[str, Any], line: Line) -> tuple[str, ...]:
    """Gold answers stand beside the query, or in its metadata."""
    metadata = record.get("metadata")
    given = record.get("answers", metadata.get("answers", []) if isinstance(metadata, dict) else [])
    return tuple(str(answer) for answer in _listed(given, "answers", line))


def _listed(value: Any, name: str, line: Line) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise DataError(f"{line.where}: {name!r} must be a list")
    return value

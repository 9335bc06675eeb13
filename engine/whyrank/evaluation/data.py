"""Judged data, one topic at a time: a query, its candidates in the first stage's order, and their relevance grades.

There are two kinds of source. A BEIR folder holds corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv (or TREC's qrels.txt), and a
first stage, which is a TREC run or MTEB's top_ranked, passed in or found in the folder. Or a single file of JSON lines holds
everything: {query, positive, negative}, or {query, candidates: [{id, text, grade or label}]}, best first.
"""

from __future__ import annotations

import array
import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from whyrank.errors import DataError
from whyrank.evaluation.trec import RunFile, TopRanked, check_id, read_qrels
from whyrank.jsonl import Line, json_object, numbered_lines, read_line
from whyrank.types import Document

__all__ = [
    "BeirFolder",
    "Candidate",
    "Claims",
    "Collection",
    "JsonLines",
    "Topic",
    "document_id",
    "fingerprint",
    "open_collection",
    "read_judged",
]

_LABELS: Mapping[str, int] = {"evidence": 2, "related": 1, "irrelevant": 0}
"""Grades of candidates that are labelled in words."""

_ORDERED = ("candidates", "hits", "chunks")
"""Keys of candidates in the first stage's order, by the names in use."""
_UNORDERED: Mapping[str, int] = {"positive": 1, "negative": 0}
"""Keys of candidates in no order, and their grades."""


@dataclass(frozen=True, slots=True)
class Candidate:
    document: Document
    first_score: float | None = None

    @property
    def id(self) -> str:
        return self.document.id or ""


@dataclass(frozen=True, slots=True)
class Topic:
    """`judged`: document id → grade, including documents that were not found. `answers`: gold answers, if there are any."""

    id: str
    query: str
    candidates: tuple[Candidate, ...] = ()
    judged: Mapping[str, int] = field(default_factory=dict)
    answers: tuple[str, ...] = ()


def open_collection(path: Path, run: Path | None = None, split: str = "test") -> Collection:
    if path.is_dir():
        return BeirFolder(path, run, split)
    if run is not None:
        raise DataError(f"{path}: JSON lines contain their own candidates; --run is for a BEIR folder")
    return JsonLines(path)


class BeirFolder:
    """A BEIR folder. `judgements`: the qrels file. `fingerprint` changes when the data do."""

    def __init__(self, folder: Path, run: Path | None = None, split: str = "test") -> None:
        corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
        judged = read_judged(folder, split)
        self.judgements, self._judged, self._queries = judged.file, judged.grades, judged.queries
        ranked = run or _first_there(
            folder, "run.trec", f"top_ranked/{split}.jsonl", "top_ranked.jsonl", "top_ranked.json"
        )
        self.name = folder.resolve().name
        self.first_stage: str | None = ranked.name
        self.highest_grade = max(max(grades.values()) for grades in self._judged.values())
        self._corpus = _Corpus(corpus)
        kind = TopRanked if ranked.suffix in (".json", ".jsonl") else RunFile
        self._first_stage: TopRanked | RunFile = kind(ranked, self._corpus)
        self.fingerprint = fingerprint(corpus, queries, self.judgements, ranked)

    @property
    def topic_ids(self) -> Sequence[str]:
        """Every judged query, in the qrels' order. A query that the first stage missed has no candidates and counts as zero."""
        return list(self._judged)

    def topic(self, ident: str, top_k: int) -> Topic:
        """A document with the query's own id is left out, as in BEIR."""
        ranked = [pair for pair in self._first_stage.ranked(ident) if pair[0] != ident][:top_k]
        documents = self._corpus.documents(document for document, _ in ranked)
        candidates = tuple(Candidate(document, score) for document, (_, score) in zip(documents, ranked, strict=True))
        query, answers = self._queries[ident]
        return Topic(ident, query, candidates, self._judged[ident], answers)


class JsonLines:
    """Queries with all their texts. A document without an id gets a hash of its text as id, which does not reveal its grade.

    `first_stage` is None where the candidates are in no order."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.judgements = path
        self.highest_grade = 0
        self._places: dict[str, tuple[int, int]] = {}
        ordered = True
        for line in numbered_lines(path):
            topic = self._topic_of(line)
            self.highest_grade = max(self.highest_grade, *topic.judged.values(), 0)
            ordered &= _UNORDERED.keys().isdisjoint(json_object(line))
            if self._places.setdefault(topic.id, (line.number, line.start)) != (line.number, line.start):
                raise DataError(f"{line.where}: query id {topic.id!r} occurs twice")
        if not self._places:
            raise DataError(f"{path}: contains no queries")
        self.first_stage: str | None = "the order in the file" if ordered else None
        self.fingerprint = fingerprint(path)

    @property
    def topic_ids(self) -> Sequence[str]:
        return list(self._places)

    def topic(self, ident: str, top_k: int) -> Topic:
        with self.judgements.open("rb") as file:
            topic = self._topic_of(read_line(file, self.judgements, *self._places[ident]))
        return replace(topic, candidates=topic.candidates[:top_k])

    def _topic_of(self, line: Line) -> Topic:
        return _json_topic(line)


class Claims(JsonLines):
    """Claims, each a query with the one document that backs it or does not: {claim, document, label: 1 or 0}, and perhaps
    `dataset`. LLM-AggreFact calls the document `doc`."""

    def __init__(self, path: Path) -> None:
        self._data_sets: dict[str, str] = {}
        super().__init__(path)
        self.first_stage = None

    def data_set(self, ident: str) -> str:
        """The one that a claim is of."""
        return self._data_sets[ident]

    def _topic_of(self, line: Line) -> Topic:
        record = json_object(line)
        label = record.get("label")
        if label not in (0, 1):
            raise DataError(f"{line.where}: label is {label!r:.40}: give 1 where the document backs the claim, else 0")
        name = "doc" if "document" not in record and "doc" in record else "document"
        document = Document(_text(record, name, line), id="document")
        ident = check_id(str(record["id"]), line.where) if record.get("id") is not None else str(line.number)
        self._data_sets[ident] = str(record.get("dataset") or self.name)
        return Topic(ident, _text(record, "claim", line), (Candidate(document),), {"document": int(label)})


Collection = BeirFolder | JsonLines


class _Corpus:
    """corpus.jsonl of any size: 16 bytes of memory per document; texts are read when needed."""

    def __init__(self, path: Path) -> None:
        import numpy as np  # imported here, so that a light install can show the commands' help

        self._path = path
        hashes, starts = array.array("Q"), array.array("q")
        for line in numbered_lines(path):
            hashes.append(_hash(document_id(line)))
            starts.append(line.start)
        order = np.argsort(np.array(hashes), kind="stable")
        sorted_hashes = np.array(hashes)[order]
        self._hashes = array.array("Q", sorted_hashes.tobytes())
        self._starts = array.array("q", np.array(starts)[order].tobytes())
        # Even among a billion ids, two hardly ever share eight bytes of a good hash: equal hashes mean equal ids.
        for at in np.nonzero(sorted_hashes[1:] == sorted_hashes[:-1])[0][:1]:
            first, second = (line for line in numbered_lines(path) if line.start in self._starts[at : at + 2])
            raise DataError(f"{second.where}: document {document_id(second)!r} is already in line {first.number}")

    def __contains__(self, ident: object) -> bool:
        key = _hash(str(ident))
        at = bisect_left(self._hashes, key)
        return at < len(self._hashes) and self._hashes[at] == key

    def documents(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids, which must be in the corpus."""
        with self._path.open("rb") as file:
            return [self._read(file, ident) for ident in ids]

    def _read(self, file: BinaryIO, ident: str) -> Document:
        record = json_object(read_line(file, self._path, 0, self._starts[bisect_left(self._hashes, _hash(ident))]))
        title, text = record.get("title") or None, record.get("text")
        if record.get("_id") != ident or not isinstance(text, str) or not isinstance(title, str | None):
            raise DataError(f"{self._path}: document {ident!r} has changed since it was first read; start again")
        return Document(text, id=ident, title=title, metadata=record.get("metadata") or {})


def _hash(ident: str) -> int:
    return int.from_bytes(hashlib.blake2b(ident.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def document_id(line: Line) -> str:
    """The id in a line of corpus.jsonl, after checking the line."""
    record = json_object(line)
    for name in ("_id", "text"):
        if not isinstance(record.get(name), str):
            raise DataError(f"{line.where}: no string under {name!r}; its keys are {sorted(record)}")
    if not isinstance(record.get("title") or "", str):
        raise DataError(f"{line.where}: 'title' must be a string")
    return check_id(record["_id"], line.where)


class JudgedQueries(NamedTuple):
    """The qrels file, its grades (query → document → grade), and text and gold answers of each of its queries."""

    file: Path
    grades: Mapping[str, Mapping[str, int]]
    queries: Mapping[str, tuple[str, tuple[str, ...]]]


def read_judged(folder: Path, split: str) -> JudgedQueries:
    """Of a BEIR folder. Every judged query must be there."""
    file = _first_there(folder, f"qrels/{split}.tsv", f"qrels/{split}.txt", "qrels.txt", "qrels.tsv")
    grades, first_lines = read_qrels(file)
    queries = _read_queries(folder / "queries.jsonl", grades)
    for query, line in first_lines.items():
        if query not in queries:
            raise DataError(f"{line.where}: query {query!r} is not in {folder / 'queries.jsonl'}")
    return JudgedQueries(file, grades, queries)


def _first_there(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: has none of {', '.join(names)}")


def fingerprint(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as cause:
            raise DataError(f"{path}: {cause.strerror}") from cause
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _read_queries(path: Path, judged: Mapping[str, Any]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Text and gold answers of the judged queries; other queries are skipped."""
    queries: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in numbered_lines(path):
        record = json_object(line)
        ident = check_id(_text(record, "_id", line), line.where)
        if ident in queries:
            raise DataError(f"{line.where}: query {ident!r} occurs twice")
        if ident in judged:
            queries[ident] = _text(record, "text", line), _answers(record, line)
    return queries


def _json_topic(line: Line) -> Topic:
    record = json_object(line)
    query = _text(record, "query", line)
    documents: dict[str, Document] = {}
    judged: dict[str, int] = {}
    for document, grade in _json_candidates(record, line):
        name = document.id or ""
        if documents.setdefault(name, document) != document:
            raise DataError(f"{line.where}: two different documents have the id {name!r}")
        if grade is not None and judged.setdefault(name, grade) != grade:
            raise DataError(f"{line.where}: the document {document.text[:40]!r} has two different judgements")
    candidates = list(documents.values())
    if not _UNORDERED.keys().isdisjoint(record):
        # Such files list positives first. In that order, a model that gives every document the same score would look perfect.
        candidates.sort(key=lambda document: _text_id(document.text))
    ident = next((str(record[name]) for name in ("id", "query_id") if isinstance(record.get(name), str | int)), None)
    ident = check_id(ident, line.where) if ident else str(line.number)
    return Topic(ident, query, tuple(map(Candidate, candidates)), judged, _answers(record, line))


def _json_candidates(record: dict[str, Any], line: Line) -> list[tuple[Document, int | None]]:
    grades: dict[str, int | None] = {**dict.fromkeys(_ORDERED), **_UNORDERED}
    if grades.keys().isdisjoint(record):
        raise DataError(f"{line.where}: no 'positive', 'negative' or 'candidates'; its keys are {sorted(record)}")
    return [
        _json_candidate(item, grade, f"{line.where}: {name}[{at}]")
        for name, grade in grades.items()
        for at, item in enumerate(_listed(record.get(name, []), name, line))
    ]


def _json_candidate(item: Any, grade: int | None, where: str) -> tuple[Document, int | None]:
    record = {"text": item} if isinstance(item, str) else item
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise DataError(f"{where}: neither a string nor an object with a 'text'")
    ident = next((str(record[name]) for name in ("id", "chunk_id", "_id") if record.get(name) is not None), None)
    ident = check_id(ident, where) if ident else _text_id(record["text"])
    # No other keys: a grade must not reach the prompt.
    known = {name: record.get(name) for name in ("text", "title", "metadata")}
    judged = record.get("grade", record.get("label", grade))
    if isinstance(judged, str):
        if judged not in _LABELS:
            raise DataError(
                f"{where}: label {judged!r} is not one of {', '.join(_LABELS)}; give a whole number as 'grade'"
            )
        judged = _LABELS[judged]
    if judged is not None and not isinstance(judged, int):
        raise DataError(f"{where}: grade {judged!r} is not a whole number")
    return Document.of({**known, "id": ident}, where), judged


def _text_id(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def _text(record: dict[str, Any], name: str, line: Line) -> str:
    if not isinstance(record.get(name), str) or not record[name].strip():
        raise DataError(f"{line.where}: no string under {name!r}; its keys are {sorted(record)}")
    return str(record[name])


def _answers(record: dict[str, Any], line: Line) -> tuple[str, ...]:
    """Gold answers, given beside the query or in its metadata."""
    metadata = record.get("metadata")
    given = record.get("answers", metadata.get("answers", []) if isinstance(metadata, dict) else [])
    return tuple(str(answer) for answer in _listed(given, "answers", line))


def _listed(value: Any, name: str, line: Line) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise DataError(f"{line.where}: {name!r} must be a list")
    return value

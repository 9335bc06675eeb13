"""TREC's qrels and run files, BEIR's qrels, MTEB's top_ranked: who was found for which query, and how good they are."""

from __future__ import annotations

import array
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from whyrank.errors import DataError
from whyrank.evaluation.files import Line, check_id, json_object, numbered_lines

__all__ = ["FirstStage", "Qrels", "RunFile", "TopRanked", "as_float32", "read_qrels", "run_line", "trec_order"]

# Documents of a first stage are looked up in the corpus so many at a time.
_CHUNK = 50_000

Qrels = dict[str, dict[str, int]]
"""Query id → document id → grade."""

Missing = Callable[[Sequence[str]], int | None]
"""Which of these documents is the first that the corpus lacks?"""


class FirstStage(Protocol):
    """Which documents were found for a query, best first, each with the first stage's score or None."""

    def found(self, query: str) -> list[tuple[str, float | None]]: ...


def as_float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """As trec_eval sorts: by score in single precision, ties by document id, both descending."""
    return sorted(scores, key=lambda document: (as_float32(scores[document]), document), reverse=True)


def run_line(query: str, document: str, rank: int, margin: float, tag: str) -> str:
    """Nine digits are all that trec_eval's single precision can tell apart."""
    return f"{check_id(query, 'run')} Q0 {check_id(document, 'run')} {rank} {margin:.9g} {tag}\n"


def read_qrels(path: Path) -> tuple[Qrels, dict[str, Line]]:
    """TREC's four columns or BEIR's three with a header. Also each query's first line, for errors about it.

    As in trec_eval, a line that begins with # is a comment; BEIR knows none, and a query there may be called so."""
    qrels: Qrels = {}
    first_lines: dict[str, Line] = {}
    for line in numbered_lines(path):
        columns = line.text.split("\t")
        if line.text.startswith("#") and len(columns) != 3:
            continue
        if len(columns) not in (3, 4):
            columns = line.text.split()
        if len(columns) not in (3, 4):
            raise DataError(f"{line.where}: {len(columns)} columns; qrels have 4 (TREC) or 3 (BEIR, tab-separated)")
        query, document, grade = (columns[i].strip() for i in (0, -2, -1))
        if line.number == 1 and len(columns) == 3 and not _is_whole(grade):
            continue  # BEIR's header
        if not _is_whole(grade):
            raise DataError(f"{line.where}: grade {grade!r} is not a whole number")
        judged = qrels.setdefault(query, {})
        check_id(document, line.where)
        if judged.setdefault(document, int(grade)) != int(grade):
            raise DataError(f"{line.where}: query {query!r} judges document {document!r} a second time, differently")
        first_lines.setdefault(query, line)
    if not qrels:
        raise DataError(f"{path}: holds no judgements")
    return qrels, first_lines


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


class RunFile:
    """A TREC run of any size: only where each query's lines stand is kept. The rank column is ignored, as by trec_eval."""

    def __init__(self, path: Path, missing: Missing) -> None:
        self._path = path
        self._stretches: dict[str, array.array[int]] = {}
        """Per query: start and end of each unbroken stretch of its lines, and the number of the first."""
        _check_documents(self._index(), missing)

    def _index(self) -> Iterator[tuple[Line, str]]:
        last, stretch = None, array.array("q")
        for line in numbered_lines(self._path):
            query, document, _ = _run_columns(line)
            if query != last:
                stretch = self._stretches.setdefault(query, array.array("q"))
                stretch.extend((line.start, 0, line.number))
            last = query
            stretch[-2] = line.end
            yield line, document

    def found(self, query: str) -> list[tuple[str, float | None]]:
        """A document that is there twice counts once, where it is best."""
        scores: dict[str, float] = {}
        for line in self._lines(query):
            _, document, score = _run_columns(line)
            scores[document] = max(score, scores.get(document, -math.inf))
        return [(document, scores[document]) for document in trec_order(scores)]

    def _lines(self, query: str) -> Iterator[Line]:
        stretches = self._stretches.get(query, array.array("q"))
        with self._path.open("rb") as file:
            for start, end, first in zip(*(stretches[i::3] for i in range(3)), strict=True):
                file.seek(start)
                for number, text in enumerate(file.read(end - start).decode("utf-8-sig").split("\n"), first):
                    if text.strip():
                        yield Line(self._path, number, text)


def _run_columns(line: Line) -> tuple[str, str, float]:
    columns = line.text.split()
    if len(columns) < 6:  # what follows the sixth is a longer tag, as for trec_eval
        raise DataError(f"{line.where}: {len(columns)} columns; a TREC run has 6 (query Q0 document rank score tag)")
    try:
        score = float(columns[4])
    except ValueError as cause:
        raise DataError(f"{line.where}: score {columns[4]!r} is not a number") from cause
    if not abs(score) <= 3.4e38:  # single precision's largest; NaN is not, either
        raise DataError(f"{line.where}: score {columns[4]!r} is not finite in single precision")
    return columns[0], columns[2], score


class TopRanked:
    """MTEB's top_ranked: one {"query-id", "corpus-ids"} a line, or one object {query: [documents]}. Best first, no scores."""

    def __init__(self, path: Path, missing: Missing) -> None:
        self._documents: dict[str, list[str]] = {}
        for line, query, documents in _top_ranked_entries(path):
            if not isinstance(documents, list) or not all(isinstance(document, str) for document in documents):
                raise DataError(f"{line.where}: the documents of query {query!r} must be a list of strings")
            if query in self._documents:
                raise DataError(f"{line.where}: query {query!r} is there a second time")
            self._documents[query] = list(dict.fromkeys(documents))
            _check_documents(((line, document) for document in self._documents[query]), missing)

    def found(self, query: str) -> list[tuple[str, float | None]]:
        return [(document, None) for document in self._documents.get(query, [])]


def _top_ranked_entries(path: Path) -> Iterator[tuple[Line, str, object]]:
    for line in numbered_lines(path) if path.suffix == ".jsonl" else _whole_file(path):
        record = json_object(line)
        if path.suffix != ".jsonl":
            yield from ((line, query, documents) for query, documents in record.items())
        elif isinstance(query := record.get("query-id"), str):
            yield line, query, record.get("corpus-ids")
        else:
            raise DataError(f"{line.where}: no 'query-id' with a string; its keys are {sorted(record)}")


def _whole_file(path: Path) -> Iterator[Line]:
    lines = list(numbered_lines(path))
    text = "\n".join(line.text for line in lines)
    try:
        json.loads(text)
    except json.JSONDecodeError as cause:
        raise DataError(f"{path}, line {cause.lineno}: not JSON ({cause.msg})") from cause
    yield Line(path, 1, text)


def _check_documents(found: Iterable[tuple[Line, str]], missing: Missing) -> None:
    lines: list[Line] = []
    documents: list[str] = []

    def check() -> None:
        if (at := missing(documents)) is not None:
            raise DataError(f"{lines[at].where}: document {documents[at]!r} is not in the corpus")
        lines.clear()
        documents.clear()

    for line, document in found:
        lines.append(line)
        documents.append(document)
        if len(lines) == _CHUNK:
            check()
    check()

"""TREC's qrels and run files, BEIR's qrels, MTEB's top_ranked: candidates and relevance grades by query."""

from __future__ import annotations

import array
import math
import re
import struct
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from whyrank.errors import DataError
from whyrank.jsonl import Line, json_object, numbered_lines, read_line

__all__ = ["RunFile", "TopRanked", "check_id", "read_qrels", "run_line", "trec_order"]

_UNFIT_FOR_TREC = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MAX_FLOAT32 = 3.4e38


def check_id(ident: str, where: str) -> str:
    """White space separates the columns of a TREC file: an id that contains some would become two columns, or a new line."""
    if not ident or _UNFIT_FOR_TREC.search(ident):
        raise DataError(
            f"{where}: id {ident!r:.80} is empty or holds white space, a control character or half a surrogate pair, which "
            "no TREC run can hold: rename it, in judgements and run, too"
        )
    return ident


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """Document ids in trec_eval's order: by score in single precision, ties by document id, both descending."""
    return sorted(scores, key=lambda document: (_as_float32(scores[document]), document), reverse=True)


def _as_float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def run_line(query: str, document: str, rank: int, margin: float, tag: str) -> str:
    """One line of a run file. Nine digits are all that trec_eval's single precision distinguishes."""
    return f"{check_id(query, 'run')} Q0 {check_id(document, 'run')} {rank} {margin:.9g} {tag}\n"


def read_qrels(path: Path) -> tuple[dict[str, dict[str, int]], dict[str, Line]]:
    """Query → document → grade; and each query's first line, for errors about it.

    TREC's four columns, or BEIR's three with a header. As in trec_eval, a line that begins with # is a comment; BEIR has no
    comments, and a query id there may begin with #."""
    qrels: dict[str, dict[str, int]] = {}
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
        if not grade.removeprefix("-").isdecimal():
            if line.number == 1 and len(columns) == 3:
                continue  # BEIR's header
            raise DataError(f"{line.where}: grade {grade!r} is not a whole number")
        check_id(document, line.where)
        if qrels.setdefault(query, {}).setdefault(document, int(grade)) != int(grade):
            raise DataError(f"{line.where}: query {query!r} has two different grades for document {document!r}")
        first_lines.setdefault(query, line)
    if not qrels:
        raise DataError(f"{path}: contains no judgements")
    return qrels, first_lines


class RunFile:
    """A TREC run of any size: only the offsets of its lines are kept. The rank column is ignored, as in trec_eval."""

    def __init__(self, path: Path, corpus: Container[str]) -> None:
        self._path = path
        self._starts: dict[str, array.array[int]] = {}
        for line in numbered_lines(path):
            query, document, _ = _run_columns(line)
            _check_document(document, corpus, line)
            self._starts.setdefault(query, array.array("q")).append(line.start)

    def ranked(self, query: str) -> list[tuple[str, float | None]]:
        """Documents with their scores, best first. A duplicate counts once, with its best score."""
        scores: dict[str, float] = {}
        with self._path.open("rb") as file:
            for start in self._starts.get(query, ()):
                _, document, score = _run_columns(read_line(file, self._path, 0, start))
                scores[document] = max(score, scores.get(document, -math.inf))
        return [(document, scores[document]) for document in trec_order(scores)]


def _run_columns(line: Line) -> tuple[str, str, float]:
    columns = line.text.split()
    if len(columns) < 6:  # further columns belong to the tag, as in trec_eval
        raise DataError(f"{line.where}: {len(columns)} columns; a TREC run has 6 (query Q0 document rank score tag)")
    try:
        score = float(columns[4])
    except ValueError as cause:
        raise DataError(f"{line.where}: score {columns[4]!r} is not a number") from cause
    if not abs(score) <= _MAX_FLOAT32:  # false for NaN, too
        raise DataError(f"{line.where}: score {columns[4]!r} is not finite in single precision")
    return columns[0], columns[2], score


class TopRanked:
    """MTEB's top_ranked: one {"query-id", "corpus-ids"} per line, or one object {query: [documents]}. Best first, no scores."""

    def __init__(self, path: Path, corpus: Container[str]) -> None:
        self._documents: dict[str, list[str]] = {}
        for line, query, documents in _top_ranked_entries(path):
            if not isinstance(documents, list) or not all(isinstance(document, str) for document in documents):
                raise DataError(f"{line.where}: the documents of query {query!r} must be a list of strings")
            if query in self._documents:
                raise DataError(f"{line.where}: query {query!r} occurs twice")
            self._documents[query] = list(dict.fromkeys(documents))
            for document in documents:
                _check_document(document, corpus, line)

    def ranked(self, query: str) -> list[tuple[str, float | None]]:
        return [(document, None) for document in self._documents.get(query, [])]


def _top_ranked_entries(path: Path) -> Iterator[tuple[Line, str, object]]:
    if path.suffix != ".jsonl":
        whole = Line(path, 1, "\n".join(line.text for line in numbered_lines(path)))
        yield from ((whole, query, documents) for query, documents in json_object(whole).items())
        return
    for line in numbered_lines(path):
        record = json_object(line)
        if not isinstance(query := record.get("query-id"), str):
            raise DataError(f"{line.where}: no string under 'query-id'; its keys are {sorted(record)}")
        yield line, query, record.get("corpus-ids")


def _check_document(document: str, corpus: Container[str], line: Line) -> None:
    if document not in corpus:
        raise DataError(f"{line.where}: document {document!r} is not in the corpus")

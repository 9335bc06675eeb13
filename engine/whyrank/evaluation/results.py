"""The result file: what an evaluation found, one line per query, and nothing that differs between two runs of it.

    {"whyrank": "results", "data": ..., "model": ..., ...}
    {"query": "q7", "text": ..., "rows": [["d3", first stage's score, margin, score], ...], "judged": {"d3": 2}, ...}

Rows are in the first stage's order. What differs from run to run, such as times, goes to costs.jsonl beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from whyrank.errors import DataError, InvalidRequest
from whyrank.jsonl import Line, LineFile, cut_half_line, json_line, json_object, naming, numbered_lines

__all__ = ["COSTS", "RESULTS", "Header", "Result", "Row", "open_results", "queries_done", "read_header", "read_results"]

RESULTS, COSTS = "results.jsonl", "costs.jsonl"
_ALWAYS = 4  # values that are written of every row


@dataclass(frozen=True, slots=True)
class Header:
    """What was evaluated. Two results are comparable if their `fingerprint` and `top_k` are equal."""

    data: str
    fingerprint: str
    model: str
    top_k: int
    topics: int
    first_stage: str | None = None
    preset: str | None = None
    mode: str = "score"
    options: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        return json_line({"whyrank": "results", **asdict(self)})


class Row(NamedTuple):
    """One candidate. It has a margin, or only a rank if the model ordered lists, or neither: see Result.failed."""

    document: str
    first_score: float | None
    margin: float | None
    score: float | None
    calibrated_score: float | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One query. `judged` also names documents that the first stage missed; `evidence`: document → its measures."""

    query: str
    text: str
    rows: tuple[Row, ...] = ()
    judged: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def is_graded(self) -> bool:
        return any(grade > 1 for grade in self.judged.values())

    def reranked(self) -> dict[str, float]:
        """Margins, or negative ranks if the model gave only an order. Candidates that failed are left out."""
        ranks = {row.document: -float(row.rank) for row in self.rows if row.rank is not None}
        return ranks or {row.document: row.margin for row in self.rows if row.margin is not None}

    def first_stage(self) -> dict[str, float]:
        """Scores of the first stage, or negative ranks if it has only an order."""
        scores = {row.document: row.first_score for row in self.rows if row.first_score is not None}
        if len(scores) == len(self.rows):
            return scores
        return {row.document: -float(place) for place, row in enumerate(self.rows)}

    def relevance(self, rel: int = 1) -> dict[str, bool]:
        """Relevance of the judged candidates. If only relevant documents were judged, unjudged ones count as not relevant."""
        documents = (row.document for row in self.rows)
        if all(grade >= rel for grade in self.judged.values()):
            return {document: document in self.judged for document in documents}
        return {document: self.judged[document] >= rel for document in documents if document in self.judged}

    def line(self) -> str:
        value: dict[str, Any] = {"query": self.query, "text": self.text}
        value["rows"] = [_short(row) for row in self.rows]
        optional = {"failed": self.failed, "evidence": self.evidence}
        return json_line({**value, "judged": self.judged, **{name: given for name, given in optional.items() if given}})


def _short(row: Row) -> tuple[Any, ...]:
    """Without what few rows have, at the end."""
    length = len(row)
    while length > _ALWAYS and row[length - 1] is None:
        length -= 1
    return row[:length]


def open_results(folder: Path, header: Header) -> tuple[LineFile, set[str]]:
    """Opens the result file to append to, and returns the queries that it already holds."""
    done = queries_done(folder, header)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    cut_half_line(path)
    cut_half_line(folder / COSTS)
    file = LineFile(path)
    if not path.stat().st_size:
        file.append(header.line())
    return file, done


def queries_done(folder: Path, header: Header) -> set[str]:
    """The queries whose results the folder holds. Raises if it holds another evaluation."""
    path = folder / RESULTS
    if not path.exists() or next(numbered_lines(path, finished=True), None) is None:
        return set()
    before, now = asdict(read_header(path)), asdict(header)
    if differ := [name for name in now if before[name] != now[name]]:
        differences = ", ".join(f"{name} was {before[name]!r}, is {now[name]!r}" for name in differ)
        raise InvalidRequest(f"{path} holds another evaluation ({differences}): choose another --out, or give --fresh")
    return {result.query for result in read_results(path)}


def read_header(path: Path) -> Header:
    line = next(numbered_lines(path, finished=True), None)
    value = json_object(line) if line else {}
    if value.pop("whyrank", None) != "results":
        raise DataError(f"{path}: is not a result file of whyrank eval")
    try:
        return Header(**value)
    except TypeError as cause:
        raise DataError(f"{path}, line 1: not a header of this version of whyrank") from cause


def read_results(path: Path) -> Iterator[Result]:
    """Yields one query at a time: only the current line is in memory."""
    lines = numbered_lines(path, finished=True)
    next(lines, None)  # the header
    return map(_result, lines)


def _result(line: Line) -> Result:
    value = json_object(line)
    try:
        rows = tuple(Row(*row) for row in value["rows"])
        judged, failed, evidence = value["judged"], value.get("failed", {}), value.get("evidence", {})
        return Result(value["query"], value["text"], rows, judged, failed, evidence)
    except (KeyError, TypeError) as cause:
        raise DataError(f"{line.where}: not a result of whyrank eval ({cause})") from cause

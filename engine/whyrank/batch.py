"""Answers requests from a file of JSON lines into another. If interrupted at any point, it can be resumed.

    input     {"query": ..., "documents": [...], "id": ..., "top_n": ..., "mode": ...}
    output    {"row": 3, "hash": "9f...", "id": ..., "results": [...], "usage": ..., "model": ..., "prompt": ...}
    rejects   {"row": 4, "hash": "1c...", "reason": "documents is empty: ...", "line": "..."}

`row` is the line's number in the input. Every row ends up in exactly one of the two output files, which both grow in the
input's order: what is done is found by reading all three side by side, with only the rows in flight in memory.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from whyrank.base import BaseReranker
from whyrank.errors import DataError, InvalidRequest, PermanentError, TooLarge, Unreachable
from whyrank.fan_out import map_ordered
from whyrank.jsonl import LineFile, SameModel, cut_half_line, json_object, numbered_lines
from whyrank.options import options_of
from whyrank.prompting.identity import file_part
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.wire.responses import ranking_to_dict

__all__ = [
    "AnswerRows",
    "Reply",
    "Row",
    "Tally",
    "answer_file",
    "check_outputs",
    "count_rows",
    "parse_row",
    "rejects_beside",
    "rerank_file",
]

_SECONDS_BETWEEN_SYNCS = 1.0
_KEYS = frozenset({"query", "documents", "id"}) | options_of(RerankRequest).keys()


@dataclass(slots=True)
class Tally:
    """Counts over the whole output, whichever run wrote it."""

    answered: int = 0
    rejected: int = 0
    documents_without_score: int = 0


class Row(NamedTuple):
    number: int
    hash: str
    raw: bytes


class Reply(NamedTuple):
    """A row and its outcome: a ranking, or the reason for its rejection."""

    row: Row
    ident: Any
    outcome: Ranking | str


AnswerRows = Callable[[Iterator[Row]], AsyncGenerator[Reply, None]]
"""Answers rows, in their order. An error that may go away is raised."""


def rejects_beside(output: Path) -> Path:
    return output.with_name(f"{output.stem}.rejects{output.suffix}")


def check_outputs(output: Path, rejects: Path) -> None:
    """Find what would keep `rerank_file` from writing, before an engine starts."""
    for path in (output, rejects):
        if not path.parent.is_dir():
            raise InvalidRequest(f"{path}: there is no folder {path.parent}: create it, or choose another file")
    _claimed(output).close()


def count_rows(source: Path) -> int:
    return sum(1 for _ in _lines(source))


async def rerank_file(
    source: Path,
    output: Path,
    rejects: Path,
    reranker: BaseReranker,
    options: Mapping[str, Any],
    max_concurrency: int = 32,
    on_progress: Callable[[], None] = lambda: None,
    fresh: bool = False,
) -> Tally:
    """`answer_file` by calls to a reranker, `max_concurrency` of them at the same time."""

    def answer(rows: Iterator[Row]) -> AsyncGenerator[Reply, None]:
        return map_ordered((_reply(row, reranker, options) for row in rows), max_concurrency)

    return await answer_file(source, output, rejects, answer, options, on_progress, fresh)


async def answer_file(
    source: Path,
    output: Path,
    rejects: Path,
    answer: AnswerRows,
    options: Mapping[str, Any],
    on_progress: Callable[[], None] = lambda: None,
    fresh: bool = False,
) -> Tally:
    """`options` apply unless a row sets them itself. `on_progress` is called once per row, done now or before. `fresh`: delete
    what earlier runs have written.

    A row that can never be answered is rejected. An error that may go away is raised: call again to resume.
    """
    tally = Tally()
    with ExitStack() as stack:
        answers, refusals = (stack.enter_context(closing(_Journal(path, fresh))) for path in (output, rejects))
        same = SameModel(output, answers.model())
        waiting = _left(_rows(source, options), answers, refusals, tally, on_progress)
        async with aclosing(answer(waiting)) as replies:
            async for reply in replies:
                if isinstance(reply.outcome, Ranking):
                    same.check(reply.outcome.model, file_part(reply.outcome.prompt))  # rows may differ in instruction
                    answers.append(_answer_line(reply, reply.outcome), after=refusals)
                    tally.answered += 1
                    tally.documents_without_score += sum(row.error is not None for row in reply.outcome.results)
                else:
                    refusals.append(_reject_line(reply, reply.outcome), after=answers)
                    tally.rejected += 1
                on_progress()
        answers.sync()
        refusals.sync()
        refusals.leave_if_empty()
        tally.documents_without_score += answers.documents_without_score
    return tally


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with source.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, raw.rstrip(b"\r\n")
    except OSError as cause:
        raise DataError(f"{source}: {cause.strerror}") from cause


def _rows(source: Path, options: Mapping[str, Any]) -> Iterator[Row]:
    """The hash covers everything that determines the request."""
    salt = json.dumps(options, sort_keys=True).encode()
    for number, raw in _lines(source):
        yield Row(number, hashlib.blake2b(salt + b"\n" + raw, digest_size=8).hexdigest(), raw)


def _left(
    rows: Iterable[Row], answers: _Journal, refusals: _Journal, tally: Tally, on_progress: Callable[[], None]
) -> Iterator[Row]:
    """The rows that no earlier run has done: the first such row, and all after it."""
    rows = iter(rows)
    for row in rows:
        if answers.holds(row):
            tally.answered += 1
        elif refusals.holds(row):
            tally.rejected += 1
        else:
            answers.check_at_end()
            refusals.check_at_end()
            yield row
            break
        on_progress()
    yield from rows
    answers.check_at_end()
    refusals.check_at_end()


async def _reply(row: Row, reranker: BaseReranker, options: Mapping[str, Any]) -> Reply:
    ident = None
    try:
        ident, request = parse_row(row.raw, options)
        (outcome,) = await reranker.rerank_many([request])
        if isinstance(outcome, PermanentError):
            raise outcome
    except (InvalidRequest, TooLarge) as error:
        return Reply(row, ident, str(error))
    for ranked in outcome.results:
        if ranked.error and ranked.error.code == "unreachable":
            raise Unreachable(f"line {row.number}: {ranked.error.message}")
    return Reply(row, ident, outcome)


def parse_row(raw: bytes, options: Mapping[str, Any]) -> tuple[Any, RerankRequest]:
    """The row's id and its request."""
    try:
        value = json.loads(raw)
    except ValueError as cause:
        raise InvalidRequest(f"not JSON: {cause}") from cause
    if not isinstance(value, dict):
        raise InvalidRequest(f"not a JSON object but a {type(value).__name__}")
    if missing := {"query", "documents"} - value.keys():
        raise InvalidRequest(f"no {' and no '.join(map(repr, sorted(missing)))}; its keys are {sorted(value)}")
    if unknown := sorted(value.keys() - _KEYS):
        raise InvalidRequest(f"unknown key {unknown[0]!r}: a row takes {', '.join(sorted(_KEYS))}")
    return value.pop("id", None), RerankRequest.of(**{**options, **value})


def _answer_line(reply: Reply, ranking: Ranking) -> str:
    record = {"row": reply.row.number, "hash": reply.row.hash, "id": reply.ident, **ranking_to_dict(ranking)}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _reject_line(reply: Reply, reason: str) -> str:
    line = reply.row.raw.decode("utf-8", "replace")
    record = {"row": reply.row.number, "hash": reply.row.hash, "id": reply.ident, "reason": reason, "line": line}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _claimed(path: Path) -> LineFile:
    file = LineFile(path)
    file.claim(f"{path}: another run is writing to it: choose another output, or wait until it has ended")
    return file


class _Journal:
    """One of the output files: first yields what earlier runs wrote, row by row; then is appended to."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self._path = path
        self._file = _claimed(path)
        if fresh:
            self._file.empty()
        cut_half_line(path)
        self.documents_without_score = 0  # in the rows that `holds` has matched
        self._past = self._done()
        self._next = next(self._past, None)
        self._unsynced_since: float | None = None

    def holds(self, row: Row) -> bool:
        if self._next is None or self._next[0] > row.number:
            return False
        if self._next[:2] != (row.number, row.hash):
            raise self._other(self._next[0])
        self.documents_without_score += self._next[2]
        self._next = next(self._past, None)
        return True

    def check_at_end(self) -> None:
        if self._next is not None:
            raise self._other(self._next[0])

    def append(self, line: str, after: _Journal) -> None:
        """Sync `after` first, so that even if the machine crashes now, no row is missing before one that is there."""
        after.sync()
        self._file.append(line)
        self._unsynced_since = self._unsynced_since or time.monotonic()
        if time.monotonic() - self._unsynced_since > _SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        if self._unsynced_since is not None:
            self._file.sync()
            self._unsynced_since = None

    def close(self) -> None:
        self._file.close()

    def leave_if_empty(self) -> None:
        if not self._path.stat().st_size:
            self._path.unlink()

    def model(self) -> tuple[str, str] | None:
        """Model and prompt of the first answer, which all others share."""
        first = next(numbered_lines(self._path), None)
        if first is None:
            return None
        record = json_object(first)
        return str(record.get("model")), file_part(str(record.get("prompt")))

    def _done(self) -> Iterator[tuple[int, str, int]]:
        """Row number, hash, and how many of the row's documents have no score."""
        for line in numbered_lines(self._path):
            value = json_object(line)
            if not isinstance(value.get("row"), int) or not isinstance(value.get("hash"), str):
                raise DataError(f"{line.where}: was not written by whyrank batch")
            yield value["row"], value["hash"], sum(bool(result.get("error")) for result in value.get("results", ()))

    def _other(self, number: int) -> DataError:
        return DataError(
            f"{self._path}: its row {number} comes from another input or from other options: "
            "choose another output, or start again with --fresh"
        )

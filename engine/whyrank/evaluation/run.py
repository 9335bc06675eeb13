"""Reranks a collection, query by query, into a result file. Stopped at any moment, it goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from whyrank.connect import masked
from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.data import Collection, Topic
from whyrank.evaluation.evidence_measures import evidence_measures
from whyrank.evaluation.files import json_line
from whyrank.evaluation.results import COSTS, RESULTS, Header, Result, Row, open_results, queries_done, read_results
from whyrank.evaluation.systems import Target
from whyrank.evaluation.trec import run_line, trec_order
from whyrank.fan_out import map_ordered
from whyrank.jsonl import LineFile, naming, write_file
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions
from whyrank.types import RankedDocument, Usage

__all__ = ["EvalRequest", "claimed", "evaluate", "is_finished", "target_of", "write_run"]

# Queries under way at once: enough to keep an engine full, and all that is ever in memory.
_MAX_CONCURRENCY = 8
_TARGET = "target.json"


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """`model` names the target. `options` are those of a rerank request that differ from its defaults."""

    model: str
    top_k: int = 100
    limit: int | None = None
    preset: str | None = None
    options: RerankOptions = field(default_factory=RerankOptions)

    def __post_init__(self) -> None:
        for name in ("top_k", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidRequest(f"{name} is {value}: give a whole number of at least 1")

    def header(self, collection: Collection) -> Header:
        topics = len(collection.topic_ids[: self.limit])
        options = {name: value for name, value in sorted(self.options.items()) if name != "mode"}
        return Header(
            collection.name,
            collection.fingerprint,
            masked(self.model),
            self.top_k,
            topics,
            collection.first_stage,
            self.preset,
            self.options.get("mode", "score"),
            options,
        )


async def evaluate(
    collection: Collection,
    target: Target,
    request: EvalRequest,
    folder: Path,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Writes results.jsonl and costs.jsonl into the folder; calls `on_progress` once for each query, done before or now."""
    results, done = open_results(folder, request.header(collection))
    costs = LineFile(folder / COSTS)
    session, began = round(time.time(), 3), time.perf_counter()
    with closing(results), closing(costs):
        for _ in done:
            on_progress()
        waiting = (ident for ident in collection.topic_ids[: request.limit] if ident not in done)
        same = _SameTarget(folder)
        work = (_rerank(collection.topic(ident, request.top_k), target, request.options) for ident in waiting)
        async with aclosing(map_ordered(work, _MAX_CONCURRENCY)) as answers:
            async for answer in answers:
                if answer.ranking is not None:
                    same.check(answer.ranking)
                results.append(answer.result.line())
                costs.append(_cost(answer, session, time.perf_counter() - began))
                on_progress()


def is_finished(collection: Collection, request: EvalRequest, folder: Path) -> bool:
    """Nothing is left to rerank: no engine is needed."""
    header = request.header(collection)
    return len(queries_done(folder, header)) == header.topics


@contextmanager
def claimed(folder: Path, fresh: bool = False) -> Iterator[None]:
    """Meanwhile no other process can claim the folder. `fresh` throws away what an evaluation left there."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with closing(LineFile(folder / RESULTS)) as file:
        file.claim(f"{folder}: another evaluation is writing to it: choose another --out, or wait until it has ended")
        if fresh:
            file.empty()  # not removed: the claim is on this very file
            for name in (COSTS, _TARGET):
                (folder / name).unlink(missing_ok=True)
        yield


def target_of(folder: Path) -> tuple[str, str]:
    """Model and prompt that answered, as the rankings told."""
    try:
        found = json.loads((folder / _TARGET).read_text(encoding="utf-8"))
        return str(found["model"]), str(found["prompt"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise DataError(f"{folder / _TARGET}: not there or not readable; give a folder of whyrank eval") from cause


class _Answer(NamedTuple):
    result: Result
    ranking: Ranking | None = None
    seconds: float = 0.0


async def _rerank(topic: Topic, target: Target, options: RerankOptions) -> _Answer:
    if not topic.candidates:
        return _Answer(Result(topic.id, topic.query, judged=topic.judged))
    began = time.perf_counter()
    ranking = await target.rerank(topic.query, [candidate.document for candidate in topic.candidates], **options)
    return _Answer(_result(topic, ranking), ranking, time.perf_counter() - began)


def _result(topic: Topic, ranking: Ranking) -> Result:
    by_index = {row.index: row for row in ranking.results}
    answered = [by_index.get(index) or RankedDocument(index, c.document) for index, c in enumerate(topic.candidates)]
    rows = tuple(
        Row(candidate.id, candidate.first_score, _nine(row.margin), _nine(row.score), _nine(row.calibrated_score))
        for candidate, row in zip(topic.candidates, answered, strict=True)
    )
    named = list(zip(topic.candidates, answered, strict=True))
    failed = {candidate.id: row.error.code for candidate, row in named if row.error}
    evidence = {candidate.id: evidence_measures(row, topic.answers) for candidate, row in named if row.evidence}
    return Result(topic.id, topic.query, rows, topic.judged, failed, evidence)


def _nine(value: float | None) -> float | None:
    """Nine digits: all that trec_eval's single precision can tell apart, so that the run file says the same."""
    return None if value is None else float(f"{value:.9g}")


def _cost(answer: _Answer, session: float, since_start: float) -> str:
    """`session`: when it was started; `since_start`: seconds from then on."""
    usage = answer.ranking.usage if answer.ranking else Usage()
    cost = {"query": answer.result.query, "pairs": len(answer.result.rows), "seconds": round(answer.seconds, 6)}
    cost |= {"session": session, "since_start": round(since_start, 6), "prompt_tokens": usage.prompt_tokens}
    return json_line(cost | {"cached_tokens": usage.cached_tokens, "output_tokens": usage.output_tokens})


class _SameTarget:
    """Scores of two models or prompts must not end up in one file, whatever was done to a checkpoint in between."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _TARGET
        self._known = target_of(folder) if self._path.exists() else None

    def check(self, ranking: Ranking) -> None:
        found = ranking.model, ranking.prompt
        if self._known is None:
            write_file(self._path, [json.dumps({"model": ranking.model, "prompt": ranking.prompt})])
            self._known = found
        if self._known != found:
            raise InvalidRequest(
                f"{self._path} names {self._known[0]} with prompt {self._known[1]}, but {found[0]} with {found[1]} "
                "answers: choose another --out"
            )


def write_run(folder: Path, tag: str = "whyrank") -> Path:
    """The reranked lists as trec_eval reads them. Documents without a score are left out: nothing is known of them."""
    path = folder / "run.trec"
    write_file(path, _run_lines(folder / RESULTS, tag))
    return path


def _run_lines(results: Path, tag: str) -> Iterator[str]:
    for result in read_results(results):
        margins = result.margins()
        for rank, document in enumerate(trec_order(margins), 1):
            yield run_line(result.query, document, rank, margins[document], tag)

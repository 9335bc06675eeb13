"""Reranks a collection, query by query, into a result file. If interrupted at any point, it can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Unpack

from whyrank.config import EngineConfig
from whyrank.connect import is_url, masked, named_options, open_model, open_server
from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.data import Collection, Topic
from whyrank.evaluation.measures import evidence_measures
from whyrank.evaluation.results import COSTS, RESULTS, Header, Result, Row, open_results, queries_done, read_results
from whyrank.evaluation.trec import run_line, trec_order
from whyrank.fan_out import map_ordered
from whyrank.jsonl import LineFile, SameModel, json_line, naming, write_file
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import Document, RankedDocument, Usage

__all__ = [
    "EvalRequest",
    "Target",
    "claimed",
    "evaluate",
    "is_finished",
    "open_target",
    "target_of",
    "write_run",
]

# Queries in flight: enough to keep an engine busy. No others are in memory.
_MAX_CONCURRENCY = 8
_TARGET = "target.json"


class Target(Protocol):
    """Anything that reranks can be evaluated."""

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking: ...


@asynccontextmanager
async def open_target(name: str, **options: Any) -> AsyncIterator[Target]:
    """Opens a model by name, perhaps followed by engine options: "Qwen/Qwen3-Reranker-0.6B,dtype=float32". Options in the
    name take precedence over `options`.

    Or opens a server by URL, which has its own engine options: any that differ from the defaults are refused.
    """
    model, named = named_options(name)
    config = EngineConfig(model, **{**options, **named})
    async with open_server(model, None, config) if is_url(model) else open_model(config) as target:
        yield target


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """`model` names the target. `options`: rerank options that differ from their defaults."""

    model: str
    top_k: int = 100
    limit: int | None = None
    preset: str | None = None
    options: RerankOptions = field(default_factory=RerankOptions)

    def __post_init__(self) -> None:
        for name in ("top_k", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidRequest(f"{name} is {value}: give a whole number of at least 1")
        RerankRequest.of("query", ["document"], **self.options)  # raises before an engine starts

    def header(self, data: Collection) -> Header:
        topics, model = len(data.topic_ids[: self.limit]), masked(self.model)
        mode, options = self.options.get("mode", "score"), dict(sorted(self.options.items()))
        options.pop("mode", None)
        stage = data.first_stage
        return Header(data.name, data.fingerprint, model, self.top_k, topics, stage, self.preset, mode, options)


async def evaluate(
    collection: Collection,
    target: Target,
    request: EvalRequest,
    folder: Path,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Writes results.jsonl and costs.jsonl into the folder. Calls `on_progress` for each query, done now or before."""
    results, done = open_results(folder, request.header(collection))
    costs, target_file = LineFile(folder / COSTS), folder / _TARGET
    session, began = round(time.time(), 3), time.perf_counter()
    with closing(results), closing(costs):
        for _ in done:
            on_progress()
        waiting = (ident for ident in collection.topic_ids[: request.limit] if ident not in done)
        same = SameModel(folder / RESULTS, target_of(folder) if target_file.exists() else None)
        work = (_rerank(collection.topic(ident, request.top_k), target, request.options) for ident in waiting)
        async with aclosing(map_ordered(work, _MAX_CONCURRENCY)) as answers:
            async for answer in answers:
                if (ranking := answer.ranking) is not None:
                    if same.known is None:
                        write_file(target_file, [json.dumps({"model": ranking.model, "prompt": ranking.prompt})])
                    same.check(ranking.model, ranking.prompt)
                results.append(answer.result.line())
                costs.append(_cost(answer, session, time.perf_counter() - began))
                on_progress()


def is_finished(collection: Collection, request: EvalRequest, folder: Path) -> bool:
    """Whether nothing is left to rerank, so that no engine is needed."""
    header = request.header(collection)
    return len(queries_done(folder, header)) == header.topics


@contextmanager
def claimed(folder: Path, fresh: bool = False) -> Iterator[None]:
    """Locks the folder against other processes. `fresh` deletes what an earlier evaluation left there."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with closing(LineFile(folder / RESULTS)) as file:
        file.claim(f"{folder}: another evaluation is writing to it: choose another --out, or wait until it has ended")
        if fresh:
            file.empty()  # not removed: the lock is on this very file
            for name in (COSTS, _TARGET):
                (folder / name).unlink(missing_ok=True)
        yield


def target_of(folder: Path) -> tuple[str, str]:
    """Model and prompt that answered, as named in the rankings."""
    try:
        target = json.loads((folder / _TARGET).read_text(encoding="utf-8"))
        return str(target["model"]), str(target["prompt"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise DataError(f"{folder / _TARGET}: missing or unreadable; give a folder of whyrank eval") from cause


class _Answer(NamedTuple):
    result: Result
    ranking: Ranking | None = None
    seconds: float = 0.0


async def _rerank(topic: Topic, target: Target, options: RerankOptions) -> _Answer:
    if not topic.candidates:
        return _Answer(Result(topic.id, topic.query, judged=topic.judged))
    began = time.perf_counter()
    documents = [candidate.document for candidate in topic.candidates]
    # Judged queries cannot be changed: some are whole texts, which every evaluation truncates.
    ranking = await target.rerank(topic.query, documents, **(options | RerankOptions(truncate_query=True)))
    return _Answer(_result(topic, ranking), ranking, time.perf_counter() - began)


def _result(topic: Topic, ranking: Ranking) -> Result:
    by_index = {row.index: row for row in ranking.results}
    pairs = [(c, by_index.get(index) or RankedDocument(index, c.document)) for index, c in enumerate(topic.candidates)]
    rows = tuple(
        Row(
            candidate.id,
            candidate.first_score,
            _nine_digits(row.margin),
            _nine_digits(row.score),
            _nine_digits(row.calibrated_score),
            row.rank if row.margin is None and row.error is None else None,
        )
        for candidate, row in pairs
    )
    failed = {candidate.id: row.error.code for candidate, row in pairs if row.error}
    evidence = {candidate.id: evidence_measures(row, topic.answers) for candidate, row in pairs if row.evidence}
    return Result(topic.id, topic.query, rows, topic.judged, failed, evidence)


def _nine_digits(value: float | None) -> float | None:
    """Rounded to what trec_eval's single precision distinguishes, so that the run file gives the same order."""
    return None if value is None else float(f"{value:.9g}")


def _cost(answer: _Answer, session: float, since_start: float) -> str:
    """`session`: when it was started; `since_start`: seconds since then."""
    usage = answer.ranking.usage if answer.ranking else Usage()
    cost = {"query": answer.result.query, "pairs": len(answer.result.rows), "seconds": round(answer.seconds, 6)}
    cost |= {"session": session, "since_start": round(since_start, 6), "prompt_tokens": usage.prompt_tokens}
    return json_line(cost | {"cached_tokens": usage.cached_tokens, "output_tokens": usage.output_tokens})


def write_run(folder: Path) -> Path:
    """Writes the reranked lists for trec_eval. Documents without a score are left out, as their rank is unknown."""
    path = folder / "run.trec"
    lines = (
        run_line(result.query, document, rank, scores[document], "whyrank")
        for result in read_results(folder / RESULTS)
        for scores in [result.reranked()]
        for rank, document in enumerate(trec_order(scores), 1)
    )
    write_file(path, lines)
    return path

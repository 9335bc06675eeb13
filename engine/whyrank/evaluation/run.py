"""Reranks a collection, query by query, into a result file. Stopped at any moment, it goes on where it was."""

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
from whyrank.request import RerankOptions
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

# Queries under way at once: enough to keep an engine full, and all that is ever in memory.
_MAX_CONCURRENCY = 8
_TARGET = "target.json"


class Target(Protocol):
    """What can be evaluated: anything that reranks."""

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking: ...


@asynccontextmanager
async def open_target(name: str, **options: Any) -> AsyncIterator[Target]:
    """A model's name, perhaps with options of its engine behind it: "Qwen/Qwen3-Reranker-0.6B,dtype=float32". What stands
    in the name wins over `options`.

    Or the URL of a server, which has options of its own: those of the engine that differ from the defaults are refused.
    """
    model, named = named_options(name)
    config = EngineConfig(model, **{**options, **named})
    async with open_server(model, None, config) if is_url(model) else open_model(config) as target:
        yield target


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
    """Writes results.jsonl and costs.jsonl into the folder; calls `on_progress` once for each query, done before or now."""
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
    """Model and prompt that answered, as the rankings name them."""
    try:
        target = json.loads((folder / _TARGET).read_text(encoding="utf-8"))
        return str(target["model"]), str(target["prompt"])
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
    documents = [candidate.document for candidate in topic.candidates]
    # Judged queries are as they are: some are whole texts, which every evaluation cuts.
    ranking = await target.rerank(topic.query, documents, **(options | RerankOptions(truncate_query=True)))
    return _Answer(_result(topic, ranking), ranking, time.perf_counter() - began)


def _result(topic: Topic, ranking: Ranking) -> Result:
    by_index = {row.index: row for row in ranking.results}
    pairs = [(c, by_index.get(index) or RankedDocument(index, c.document)) for index, c in enumerate(topic.candidates)]
    rows = tuple(
        Row(candidate.id, candidate.first_score, *map(_nine_digits, (row.margin, row.score, row.calibrated_score)))
        for candidate, row in pairs
    )
    failed = {candidate.id: row.error.code for candidate, row in pairs if row.error}
    evidence = {candidate.id: evidence_measures(row, topic.answers) for candidate, row in pairs if row.evidence}
    return Result(topic.id, topic.query, rows, topic.judged, failed, evidence)


def _nine_digits(value: float | None) -> float | None:
    """All that trec_eval's single precision can tell apart, so that the run file gives the same order."""
    return None if value is None else float(f"{value:.9g}")


def _cost(answer: _Answer, session: float, since_start: float) -> str:
    """`session`: when it was started; `since_start`: seconds from then on."""
    usage = answer.ranking.usage if answer.ranking else Usage()
    cost = {"query": answer.result.query, "pairs": len(answer.result.rows), "seconds": round(answer.seconds, 6)}
    cost |= {"session": session, "since_start": round(since_start, 6), "prompt_tokens": usage.prompt_tokens}
    return json_line(cost | {"cached_tokens": usage.cached_tokens, "output_tokens": usage.output_tokens})


def write_run(folder: Path) -> Path:
    """The reranked lists as trec_eval reads them. Documents without a score are left out: nothing is known of them."""
    path = folder / "run.trec"
    lines = (
        run_line(result.query, document, rank, margins[document], "whyrank")
        for result in read_results(folder / RESULTS)
        for margins in [result.margins()]
        for rank, document in enumerate(trec_order(margins), 1)
    )
    write_file(path, lines)
    return path

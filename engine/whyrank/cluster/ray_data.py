"""Reranks a Ray dataset with a pool of engines.

    import ray
    from whyrank.cluster.ray_data import rerank

    queries = ray.data.read_parquet("queries/")            # rows of a query and its documents
    rerank(queries, "Qwen/Qwen3-Reranker-0.6B", engines=8, top_n=10).write_parquet("rankings/")

The scores are those of the server: engine, prompts and pipeline are the same. To resume a job that was killed, give it Ray's
own checkpoint, by a column that identifies rows:

    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="id", checkpoint_path="checkpoint/")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest, PermanentError
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.wire import ranking_to_dict

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["rerank"]

Row = dict[str, Any]
Batch = dict[str, Any]
"""Columns, as Ray hands them over: arrays in, lists out."""


def rerank(
    dataset: Dataset,
    model: str,
    *,
    engine: Mapping[str, Any] | None = None,
    engines: int = 1,
    num_gpus: float | None = None,
    num_cpus: float = 1,
    batch_size: int = 16,
    **options: Unpack[RerankOptions],
) -> Dataset:
    """Replaces each row's column `documents` by three others:

    - `ranking`: what `whyrank batch` writes about a row, as JSON; null for a row that cannot be answered
    - `scores`: one number for each document, in the documents' order; null where a document has none
    - `reject`: why the row cannot be answered; null for others

    Rows hold `query`, `documents` (strings, or {"text", "id", "title"}), and whatever else, which stays. `engine`: further
    fields of EngineConfig. `engines`: how many, each on `num_gpus` GPUs. `batch_size`: rows that go to an engine together; it
    works on two batches at once.
    """
    config = EngineConfig(model, **engine or {})
    RerankRequest.of("a query", ["a document"], **options)  # its faults are told now, not on a worker
    if num_gpus is None:
        from whyrank.cluster.replica import gpus_of

        num_gpus = gpus_of(config)
    return dataset.map_batches(
        _Engine,
        fn_constructor_args=(config, dict(options)),
        batch_size=batch_size,
        batch_format="numpy",
        concurrency=engines,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        max_concurrency=2,
    )


class _Engine:
    """One actor: an engine that starts with its first batch."""

    def __init__(self, config: EngineConfig, options: Mapping[str, Any]) -> None:
        from whyrank.process import prepare_process
        from whyrank.reranker import Reranker

        prepare_process()
        self._reranker, self._options = Reranker(config), options
        self._starting = asyncio.Lock()
        self._has_started = False

    async def __call__(self, batch: Batch) -> AsyncIterator[Batch]:
        async with self._starting:
            if not self._has_started:
                await self._reranker.__aenter__()
                self._has_started = True
        rows = [self._request(query, documents) for query, documents in _pairs(batch)]
        requests = [row for row in rows if isinstance(row, RerankRequest)]
        answers = iter(await self._reranker.rerank_many(requests))
        outcomes = [next(answers) if isinstance(row, RerankRequest) else row for row in rows]
        yield {
            **{name: column for name, column in batch.items() if name != "documents"},
            "ranking": [_json(outcome) for outcome in outcomes],
            "scores": [_scores(outcome) for outcome in outcomes],
            "reject": [None if isinstance(outcome, Ranking) else str(outcome) for outcome in outcomes],
        }

    def _request(self, query: Any, documents: Any) -> RerankRequest | InvalidRequest:
        try:
            return RerankRequest.of(query, documents, **self._options)
        except InvalidRequest as error:
            return error


def _pairs(batch: Batch) -> list[tuple[Any, Any]]:
    if missing := {"query", "documents"} - batch.keys():
        raise InvalidRequest(
            f"the dataset has no column {' and no '.join(sorted(missing))}; its columns are {sorted(batch)}"
        )
    return [
        (query, [_document(one) for one in documents])
        for query, documents in zip(batch["query"].tolist(), batch["documents"], strict=True)
    ]


def _document(value: Any) -> Any:
    """Columns of records have all keys in every record; those that a document has not are null."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _json(outcome: Ranking | PermanentError) -> str | None:
    return json.dumps(ranking_to_dict(outcome), ensure_ascii=False) if isinstance(outcome, Ranking) else None


def _scores(outcome: Ranking | PermanentError) -> list[float | None]:
    if not isinstance(outcome, Ranking):
        return []
    scores = {row.index: row.score for row in outcome.results}
    return [scores.get(index) for index in range(max(scores, default=-1) + 1)]

"""Reranks a Ray dataset with a pool of engines.

    import ray
    from whyrank.cluster.ray_data import rerank

    queries = ray.data.read_parquet("queries/")            # rows of a query and its documents
    rerank(queries, "Qwen/Qwen3-Reranker-0.6B", engines=8, top_n=10).write_parquet("rankings/")

The scores are those of the server: engine, prompts and pipeline are the same. To resume a job that was killed, give it Ray's
own checkpoint, by a column that identifies rows:

    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="id", checkpoint_path="checkpoint/")

Whole blocks are resumed, of which a file has few: `read_parquet("queries/", override_num_blocks=1000)` makes smaller ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest, PermanentError
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.wire import ranking_to_dict

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

__all__ = ["rerank"]


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
    - `scores`: for each document, in the documents' order, its score; null where it has none, or `top_n` or `min_score` left it
      out; empty for a row that cannot be answered
    - `reject`: why the row cannot be answered; null for others

    Rows hold `query`, `documents` (strings, or {"text", "id", "title"}), and whatever else, which stays. `engine`: further
    fields of EngineConfig. `engines`: how many, each on `num_gpus` GPUs. `batch_size`: rows that go to an engine together; it
    works on two batches at once.
    """
    from ray.data import ActorPoolStrategy

    config = EngineConfig(model, **engine or {})
    RerankRequest.of("a query", ["a document"], **options)  # its faults are told now, not on a worker
    if num_gpus is None:
        from whyrank.cluster.replica import gpus_of

        num_gpus = gpus_of(config)
    return dataset.map_batches(
        _Engine,
        fn_constructor_args=(config, dict(options)),
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=engines),
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

    async def __call__(self, batch: pyarrow.Table) -> AsyncIterator[pyarrow.Table]:
        async with self._starting:
            if not self._has_started:
                await self._reranker.__aenter__()
                self._has_started = True
        queries, documents = (_column(batch, name) for name in ("query", "documents"))
        rows = [self._request(*row) for row in zip(queries, documents, strict=True)]
        requests = [row for row in rows if isinstance(row, RerankRequest)]
        answers = iter(await self._reranker.rerank_many(requests))
        outcomes = [next(answers) if isinstance(row, RerankRequest) else row for row in rows]
        yield _with_outcomes(batch.drop_columns(["documents"]), outcomes, documents)

    def _request(self, query: Any, documents: Any) -> RerankRequest | InvalidRequest:
        if isinstance(documents, list):
            documents = [_document(one) for one in documents]
        try:
            return RerankRequest.of(query, documents, **self._options)
        except InvalidRequest as error:
            return error


def _column(batch: pyarrow.Table, name: str) -> list[Any]:
    if name not in batch.column_names:
        raise InvalidRequest(f"the dataset has no column {name}; its columns are {batch.column_names}")
    values: list[Any] = batch.column(name).to_pylist()
    return values


def _document(value: Any) -> Any:
    """Columns of records have all keys in every record; those that a document has not are null."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _with_outcomes(
    batch: pyarrow.Table, outcomes: Sequence[Ranking | PermanentError], documents: Sequence[Any]
) -> pyarrow.Table:
    """The types are given, because in some batches all values of a column are null."""
    import pyarrow

    pairs = list(zip(outcomes, documents, strict=True))
    rejects = [None if isinstance(outcome, Ranking) else str(outcome) for outcome in outcomes]
    columns = (
        ("ranking", map(_json, outcomes), pyarrow.string()),
        ("scores", (_scores(outcome, given) for outcome, given in pairs), pyarrow.list_(pyarrow.float64())),
        ("reject", rejects, pyarrow.string()),
    )
    for name, values, kind in columns:
        batch = batch.append_column(name, pyarrow.array(values, kind))
    return batch


def _json(outcome: Ranking | PermanentError) -> str | None:
    return json.dumps(ranking_to_dict(outcome), ensure_ascii=False) if isinstance(outcome, Ranking) else None


def _scores(outcome: Ranking | PermanentError, documents: Any) -> list[float | None]:
    if not isinstance(outcome, Ranking):
        return []
    scores = {row.index: row.score for row in outcome.results}
    return [scores.get(index) for index in range(len(documents))]

"""Reranks a Ray dataset with a pool of engines.

    import ray
    from whyrank.cluster.ray_data import rerank

    queries = ray.data.read_parquet("queries/")            # rows of a query and its documents
    rerank(queries, "Qwen/Qwen3-Reranker-0.6B", engines=8, top_n=10).write_parquet("rankings/")

The scores are those of the server: engine, prompts and pipeline are the same. To resume a job that was killed, give it Ray's
own checkpoint, by a column that identifies rows:

    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="id", checkpoint_path="checkpoint/")

Blocks of `block_rows` rows are resumed as a whole.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Unpack

from whyrank.batch import AnswerRows, Reply, Row, parse_row
from whyrank.config import EngineConfig
from whyrank.errors import EngineDead, FrameworkMissing, InvalidRequest, PermanentError, TooLarge
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.wire.responses import ranking_from_dict, ranking_to_dict, to_json

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

__all__ = ["answer_rows", "rerank"]

# Lines of a batch file that are one block for Ray: enough for a few batches.
_LINES_OF_A_BLOCK = 64


def rerank(
    dataset: Dataset,
    model: str,
    *,
    engine: Mapping[str, Any] | None = None,
    engines: int = 1,
    num_gpus: float | None = None,
    num_cpus: float = 1,
    batch_size: int = 16,
    block_rows: int = 256,
    **options: Unpack[RerankOptions],
) -> Dataset:
    """Replaces each row's column `documents` by three others:

    - `ranking`: what `whyrank batch` writes about a row, as JSON; null for a row that cannot be answered
    - `scores`: for each document, in the documents' order, its score; null where it has none, or `top_n` or `min_score` left it
      out; empty for a row that cannot be answered
    - `reject`: why the row cannot be answered; null for others

    Rows hold `query`, `documents` (strings, or {"text", "id", "title"}), and whatever else, which stays. `engine`: further
    fields of EngineConfig. `engines`: how many, each on `num_gpus` GPUs. `batch_size`: rows that go to an engine together; it
    works on two batches at once. `block_rows`: rows that an engine gets to work on before another does, that are written
    together, and that a checkpoint resumes together.
    """
    config = EngineConfig(model, **engine or {})
    RerankRequest.of("a query", ["a document"], **options)  # its faults are told now, not on a worker
    resources = _resources(config, engines, num_gpus, num_cpus)
    # Ray may read a whole dataset of texts as one block, which would be the work of one engine.
    return dataset.repartition(target_num_rows_per_block=block_rows).map_batches(
        _QueryEngine, fn_constructor_args=(config, dict(options)), batch_size=batch_size, **resources
    )


def answer_rows(
    config: EngineConfig,
    options: Mapping[str, Any],
    *,
    engines: int = 1,
    num_gpus: float | None = None,
    num_cpus: float = 1,
    batch_size: int = 16,
) -> AnswerRows:
    """For `batch.answer_file`: answers its rows on the Ray cluster that this machine belongs to, or else on one of its own."""
    try:
        import ray.data
        from ray.exceptions import RayError
    except ImportError as cause:
        raise FrameworkMissing(f"--ray needs Ray ({cause}): pip install 'whyrank[ray]'") from cause

    async def answer(rows: Iterator[Row]) -> AsyncGenerator[Reply, None]:
        is_ours = not ray.is_initialized()
        if is_ours:
            ray.init(log_to_driver=False)
        try:
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order, context.enable_progress_bars = True, False
            blocks = [ray.put(table) for table in _tables(rows)]
            if not blocks:
                return
            answered = ray.data.from_arrow_refs(blocks).map_batches(
                _LineEngine,
                fn_constructor_args=(config, dict(options)),
                batch_size=batch_size,
                **_resources(config, engines, num_gpus, num_cpus),
            )
            lines = iter(answered.iter_rows())
            while (line := await asyncio.to_thread(next, lines, None)) is not None:
                yield _reply(line, options)
        except RayError as cause:
            raise EngineDead(f"the job on Ray failed: {str(cause).strip().splitlines()[-1]}") from cause
        finally:
            if is_ours:
                ray.shutdown()

    return answer


def _resources(config: EngineConfig, engines: int, num_gpus: float | None, num_cpus: float) -> dict[str, Any]:
    """Of `map_batches`, beside what an actor does."""
    from ray.data import ActorPoolStrategy

    if num_gpus is None:
        from whyrank.cluster.replica import gpus_of

        num_gpus = gpus_of(config)
    return {
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(size=engines),
        "num_gpus": num_gpus,
        "num_cpus": num_cpus,
        "max_concurrency": 2,
    }


class _Engine(ABC):
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
        rows = self._requests(batch)
        requests = [row for row in rows if isinstance(row, RerankRequest)]
        answers = iter(await self._reranker.rerank_many(requests))
        yield self._answered(batch, [next(answers) if isinstance(row, RerankRequest) else row for row in rows])

    @abstractmethod
    def _requests(self, batch: pyarrow.Table) -> list[RerankRequest | InvalidRequest]:
        """Of each row, or why it has none."""

    @abstractmethod
    def _answered(self, batch: pyarrow.Table, outcomes: Sequence[Ranking | PermanentError]) -> pyarrow.Table: ...


class _QueryEngine(_Engine):
    """For rows of a query and its documents."""

    def _requests(self, batch: pyarrow.Table) -> list[RerankRequest | InvalidRequest]:
        queries, documents = (_column(batch, name) for name in ("query", "documents"))
        return [self._request(*row) for row in zip(queries, documents, strict=True)]

    def _request(self, query: Any, documents: Any) -> RerankRequest | InvalidRequest:
        if isinstance(documents, list):
            documents = [_document(one) for one in documents]
        try:
            return RerankRequest.of(query, documents, **self._options)
        except InvalidRequest as error:
            return error

    def _answered(self, batch: pyarrow.Table, outcomes: Sequence[Ranking | PermanentError]) -> pyarrow.Table:
        import pyarrow

        pairs = zip(outcomes, _column(batch, "documents"), strict=True)
        scores = pyarrow.array([_scores(*pair) for pair in pairs], pyarrow.list_(pyarrow.float64()))
        ranked = _with_outcomes(batch.drop_columns(["documents"]), outcomes)
        return ranked.add_column(ranked.num_columns - 1, "scores", scores)


class _LineEngine(_Engine):
    """For lines of a batch file, which may have options of their own."""

    def _requests(self, batch: pyarrow.Table) -> list[RerankRequest | InvalidRequest]:
        return [self._request(raw) for raw in _column(batch, "raw")]

    def _request(self, raw: bytes) -> RerankRequest | InvalidRequest:
        try:
            return parse_row(raw, self._options)[1]
        except InvalidRequest as error:
            return error

    def _answered(self, batch: pyarrow.Table, outcomes: Sequence[Ranking | PermanentError]) -> pyarrow.Table:
        for outcome in outcomes:
            if not isinstance(outcome, Ranking | InvalidRequest | TooLarge):
                raise outcome  # of the job, not of its row
        return _with_outcomes(batch, outcomes)


def _tables(rows: Iterator[Row]) -> Iterator[pyarrow.Table]:
    import pyarrow

    while some := list(islice(rows, _LINES_OF_A_BLOCK)):
        yield pyarrow.table({name: [getattr(row, name) for row in some] for name in Row._fields})


def _reply(line: Mapping[str, Any], options: Mapping[str, Any]) -> Reply:
    row = Row(*(line[name] for name in Row._fields))
    try:
        ident, request = parse_row(row.raw, options)
    except InvalidRequest as error:
        return Reply(row, None, str(error))
    if line["reject"] is not None:
        return Reply(row, ident, line["reject"])
    return Reply(row, ident, ranking_from_dict(json.loads(line["ranking"]), request.documents))


def _column(batch: pyarrow.Table, name: str) -> list[Any]:
    if name not in batch.column_names:
        raise InvalidRequest(f"the dataset has no column {name}; its columns are {batch.column_names}")
    values: list[Any] = batch.column(name).to_pylist()
    return values


def _document(value: Any) -> Any:
    """Columns of records have all keys in every record; those that a document has not are null."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _with_outcomes(batch: pyarrow.Table, outcomes: Sequence[Ranking | PermanentError]) -> pyarrow.Table:
    """The type is given, because in some batches all values of a column are null."""
    import pyarrow

    rankings = [_json(outcome) for outcome in outcomes]
    rejects = [None if isinstance(outcome, Ranking) else str(outcome) for outcome in outcomes]
    for name, values in (("ranking", rankings), ("reject", rejects)):
        batch = batch.append_column(name, pyarrow.array(values, pyarrow.string()))
    return batch


def _json(outcome: Ranking | PermanentError) -> str | None:
    return to_json(ranking_to_dict(outcome)).decode() if isinstance(outcome, Ranking) else None


def _scores(outcome: Ranking | PermanentError, documents: Any) -> list[float | None]:
    if not isinstance(outcome, Ranking):
        return []
    scores = {row.index: row.score for row in outcome.results}
    return [scores.get(index) for index in range(len(documents))]

"""A Ray dataset reranked by an engine in an actor. Skipped where Ray is not installed (whyrank[ray])."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from whyrank import EngineConfig, Reranker

ray = pytest.importorskip("ray", reason="Ray is not installed: scripts/test --cluster installs it")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own code warns of its future

ENGINE = {"kv_cache_gib": 0.25, "prompt": "prism"}
ROWS: list[dict[str, Any]] = [
    {"id": n, "query": f"Which door of house {n} is red?", "documents": [f"Door {at} is {n * at}." for at in range(5)]}
    for n in range(12)
]
NO_QUERY = {"id": 12, "query": None, "documents": ["A door."]}
NO_DOCUMENTS = {"id": 13, "query": "Which door?", "documents": []}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def answers(
    cluster: None, checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, Any]]:
    """By two runs with one checkpoint: the first has eight rows, the second all of them, and must not repeat any."""
    import pyarrow
    from pyarrow import parquet
    from ray.data.checkpoint import CheckpointConfig

    from whyrank.cluster.ray_data import rerank

    folder = tmp_path_factory.mktemp("ray-data")
    ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(folder / "checkpoint"), delete_checkpoint_on_success=False
    )
    (folder / "queries").mkdir()
    for name, rows in (("first", ROWS[:8]), ("rest", [*ROWS[8:], NO_QUERY, NO_DOCUMENTS])):
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "queries" / f"{name}.parquet")
        queries = ray.data.read_parquet(str(folder / "queries"))
        rerank(queries, str(checkpoint("qwen3")), engine=ENGINE, batch_size=4).write_parquet(str(folder / "rankings"))
    files = (folder / "rankings").glob("*.parquet")
    written = [row for file in files for row in parquet.ParquetFile(file).read().to_pylist()]
    assert sorted(row["id"] for row in written) == list(range(14))
    return {row["id"]: row for row in written}


async def test_scores_are_those_of_a_reranker(
    answers: dict[int, dict[str, Any]], checkpoint: Callable[[str], Path]
) -> None:
    async with Reranker(str(checkpoint("qwen3")), **ENGINE) as reranker:
        for row in ROWS:
            expected = {one.index: one.score for one in await reranker.score(row["query"], row["documents"])}
            answer = answers[row["id"]]
            assert dict(enumerate(answer["scores"])) == pytest.approx(expected, abs=1e-5)
            ranked = json.loads(answer["ranking"])["results"]
            assert {one["index"]: one["score"] for one in ranked} == pytest.approx(expected, abs=1e-5)
            assert answer["reject"] is None and answer["query"] == row["query"]


async def test_a_batch_file_gets_the_same_answers_on_ray(
    answers: None, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from whyrank.batch import Tally, answer_file, rerank_file
    from whyrank.cluster.ray_data import answer_rows

    ray.data.DataContext.get_current().checkpoint_config = None  # that of `answers`
    config, options = EngineConfig(str(checkpoint("qwen3")), **ENGINE), {"top_n": 3}
    source = tmp_path / "in.jsonl"
    lines = [json.dumps(row) for row in (*ROWS, NO_DOCUMENTS, *ROWS)]
    source.write_text("\n".join([*lines[:5], "{broken", *lines[5:]]))
    files = {name: (source, tmp_path / f"{name}.jsonl", tmp_path / f"{name}.rejects.jsonl") for name in ("one", "ray")}
    async with Reranker(config) as reranker:
        tally = await rerank_file(*files["one"], reranker, options)
    assert await answer_file(*files["ray"], answer_rows(config, options), options) == tally == Tally(2 * len(ROWS), 2)
    assert files["ray"][2].read_bytes() == files["one"][2].read_bytes()
    rows, expected = ([json.loads(line) for line in one[1].read_text().splitlines()] for one in files.values())
    for row, other in zip(rows, expected, strict=True):
        assert (row["row"], row["hash"], row["id"]) == (other["row"], other["hash"], other["id"])
        margins, others = ({one["index"]: one["margin"] for one in each["results"]} for each in (row, other))
        assert margins == pytest.approx(others, abs=1e-4)


@pytest.mark.parametrize("row", [NO_QUERY, NO_DOCUMENTS])
def test_a_row_that_cannot_be_answered_says_why(answers: dict[int, dict[str, Any]], row: dict[str, Any]) -> None:
    answer = answers[row["id"]]
    assert (answer["ranking"], answer["scores"]) == (None, [])
    assert ("query" if row is NO_QUERY else "documents") in answer["reject"]

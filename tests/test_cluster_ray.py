"""A real Ray cluster on this machine: two replicas behind one address. Skipped where Ray is not installed (whyrank[ray])."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from whyrank import Reranker
from whyrank.cluster.remote import Tile, TileAnswers
from whyrank.config import DEMO

ray = pytest.importorskip("ray", reason="Ray is not installed: scripts/test --cluster installs it")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own code warns of its future

PORT = 8127
QUERY = "Who founded Harbour Systems?"
TEXTS = ["Harbour Systems was founded in 2011 by Ingrid Solberg. The first product was a calendar."] + [
    f"Room {number} has {number % 7} windows and a door of glass." for number in range(99)
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray import serve

    from whyrank.cluster.ray_serve import ClusterOptions, app

    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(app(ClusterOptions(model=DEMO, replicas=2)), name="whyrank")
        yield f"http://127.0.0.1:{PORT}"
    finally:
        serve.shutdown()
        ray.shutdown()


def post(address: str, path: str, **body: Any) -> dict[str, Any]:
    data = json.dumps({"query": QUERY, "documents": TEXTS, **body}).encode()
    request = urllib.request.Request(f"{address}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def scores(answer: dict[str, Any]) -> dict[int, float]:
    return {row["index"]: row["score"] for row in answer["results"]}


def explained(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    rows = [line.rpartition(" ") for line in lines if line.startswith("whyrank_explained_total{")]
    return {name.split('"')[1]: float(value) for name, _, value in rows}


class SlowReplica:
    async def read(self, tile: Tile) -> TileAnswers:
        await asyncio.sleep(0.2)
        return TileAnswers("slow", [])


class TilesOfOneRequest:
    def __init__(self, handle: Any) -> None:
        from whyrank.cluster.ray_serve import RayReplicas

        self._replicas = RayReplicas(handle)

    async def __call__(self, request: Any) -> int:
        tiles = [asyncio.create_task(self._replicas.read(str(n), cast(Tile, n))) for n in range(12)]
        done, waiting = await asyncio.wait(tiles, timeout=30)
        for tile in waiting:
            tile.cancel()
        return len(done)


def test_tiles_of_one_request_that_wait_for_room_are_all_read(address: str) -> None:
    """Two replicas have room for one tile each. Ray's router loses waiting messages that have one id."""
    from ray import serve

    from whyrank.cluster.ray_serve import sticky_router

    replicas = serve.deployment(
        SlowReplica, num_replicas=2, max_ongoing_requests=1, request_router_config=sticky_router()
    )
    ingress = serve.deployment(TilesOfOneRequest, ray_actor_options={"num_cpus": 0})
    slow = replicas.options(ray_actor_options={"num_cpus": 0})
    serve.run(ingress.bind(slow.bind()), name="tiles", route_prefix="/tiles")
    try:
        with urllib.request.urlopen(f"{address}/tiles", timeout=60) as response:
            assert int(response.read()) == 12
    finally:
        serve.delete("tiles")


async def test_many_calls_at_once_get_the_scores_of_one_process(address: str) -> None:
    async with Reranker(DEMO, kv_cache_gib=0.5) as reranker:
        rows = await reranker.score(QUERY, TEXTS)
    expected = {row.index: row.score for row in rows}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: scores(post(address, "/v1/rerank")), range(16)))
    for answer in answers:
        assert answer == pytest.approx(expected, abs=1e-5)


def test_evidence_is_written_where_its_document_was_read(address: str) -> None:
    for _ in range(8):
        answer = post(address, "/v1/rerank", mode="evidence", evidence_top_n=3, evidence_min_score=0)
        assert answer["results"][0]["evidence"]
    counts = explained(address)
    assert counts["same"] >= 0.95 * sum(counts.values())


def test_every_dialect_is_there(address: str) -> None:
    cohere = post(address, "/cohere/v2/rerank", model=DEMO)
    assert cohere["results"][0]["index"] == 0
    tei = urllib.request.Request(
        f"{address}/tei/rerank",
        json.dumps({"query": QUERY, "texts": TEXTS}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(tei, timeout=60) as response:
        assert json.load(response)[0]["index"] == 0


def test_a_killed_replica_costs_no_document_its_score(address: str) -> None:
    """Last: the replica that takes its place starts while other tests would run."""
    expected = scores(post(address, "/v1/rerank"))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(post, address, "/v1/rerank") for _ in range(24)]
        os.kill(_pid_of_a_replica(), signal.SIGKILL)
        answers = [call.result() for call in calls]
    for answer in answers:
        assert scores(answer) == pytest.approx(expected, abs=1e-5)


def _pid_of_a_replica() -> int:
    """By the names that Ray gives its processes; its own list of actors needs the dashboard."""
    for folder in Path("/proc").glob("[0-9]*"):
        if b"ray::ServeReplica:whyrank:Replica" in (folder / "cmdline").read_bytes():
            return int(folder.name)
    raise AssertionError("no replica is running")

#!/usr/bin/env python3
"""Two engines of vLLM in parallel on a CPU, in one Reranker and behind one server: the answers of one engine, and as much found
in the cache?

    scripts/try_data_parallel.py                 # two minutes on two cores
    scripts/try_data_parallel.py --no-server     # half a minute; a test runs this

The engines serve a hybrid with random weights and one group of layers, where a hit in the cache takes a request that ended
there. Calls of one slice of documents must find as many tokens as with one engine, evidence included; a large call is spread,
and the second engine computes its query once more. The server has two HTTP processes and two engines: one instance id, one
`/metrics`, one set of limits.

Exit code 1 if one of that is not so. The last line of stdout is one JSON document with the counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

import server_process
from server_process import SMALL_CACHE, Server
from whyrank import Ranking, Reranker
from whyrank.checkpoints import make_plan
from whyrank.process import prepare_process
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.types import Document

_SLICE = 32
_LARGE = 4 * _SLICE
_CALLS = 4
_EVIDENCE: dict[str, Any] = {"mode": "evidence", "evidence_min_score": 0, "evidence_top_n": 6, "max_evidence_tokens": 8}
_WAITING = 80


def query(call: int) -> str:
    return f"late deliveries of report {call}, by department and with the reasons given"


def texts(count: int, call: int) -> list[str]:
    return [f"Report {call} of department {n}: {n * call} parts were delivered late." for n in range(count)]


async def rank(folder: Path, engines: int) -> tuple[list[Ranking], Counter[int | None]]:
    """Answers to calls of one slice and to a large one, and how many documents of that each engine has read."""
    options = {"prompt": "prism", "kv_cache_gib": 0.25, "engine_options": {"data_parallel_size": engines}}
    async with Reranker(str(folder), **options) as reranker:
        for n in range(2):  # afterwards both engines have the frame
            await reranker.score(f"warm {n}", ["a"])
        answers = [await reranker.rerank(query(call), texts(_SLICE, call), **_EVIDENCE) for call in range(_CALLS)]
        answers.append(await reranker.rerank(query(_CALLS), texts(_LARGE, _CALLS)))
        runtime = reranker._runtime
        assert isinstance(runtime, GenerateRuntime)
        documents = [Document(text) for text in texts(_LARGE, _CALLS)]
        rows = make_plan(reranker.config).encoder.encode(query(_CALLS), documents, None, "tail")
        return answers, Counter(runtime._readers.find(row.prompts[0].ids) for row in rows)  # type: ignore[union-attr]


def margins(answers: Sequence[Ranking]) -> list[float]:
    return [row.margin or 0.0 for one in answers for row in sorted(one.results, key=lambda row: row.index)]


async def try_engines(folder: Path) -> dict[str, Any]:
    (one, _), (two, readers) = await rank(folder, 1), await rank(folder, 2)
    small, small_of_two = one[:_CALLS], two[:_CALLS]
    return {
        "largest_difference": max(abs(a - b) for a, b in zip(margins(one), margins(two), strict=True)),
        "prompt_tokens": [answer.usage.prompt_tokens for answer in small_of_two],
        "cached_tokens": [answer.usage.cached_tokens for answer in small_of_two],
        "cached_tokens_of_one_engine": [answer.usage.cached_tokens for answer in small],
        "cached_tokens_of_evidence": [answer.evidence_usage.cached_tokens for answer in small_of_two],
        "cached_tokens_of_evidence_of_one_engine": [answer.evidence_usage.cached_tokens for answer in small],
        "documents_of_a_large_call": {str(rank): count for rank, count in sorted(readers.items(), key=str)},
        "computed_once_more": two[-1].usage.computed_tokens - one[-1].usage.computed_tokens,
    }


def faults_of_engines(seen: dict[str, Any]) -> list[str]:
    faults = []
    for name in ("cached_tokens", "cached_tokens_of_evidence"):
        if seen[name] != seen[f"{name}_of_one_engine"] or not min(seen[name]):
            faults.append(name)
    if seen["largest_difference"] > 0.05:  # bfloat16
        faults.append("largest_difference")
    if seen["documents_of_a_large_call"] != {"0": _LARGE // 2, "1": _LARGE // 2}:
        faults.append("documents_of_a_large_call")
    if not 0 < seen["computed_once_more"] <= 2 * _SLICE:
        faults.append("computed_once_more")
    return faults


def connections_of(server: Server) -> list[int]:
    """Open connections of each process that has any."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    port = int(server.url.rpartition(":")[2])
    connections = ([c.laddr.port for c in one.net_connections("tcp") if c.status == "ESTABLISHED"] for one in children)
    return [count for ports in connections if (count := ports.count(port))]


def total(metrics: str, name: str) -> float:
    return sum(map(float, re.findall(rf"^{name}\{{.*\}} (\S+)$", metrics, re.MULTILINE)))


async def try_server(folder: Path, log: Path) -> dict[str, Any]:
    flags = ["--prompt", "prism", "--data-parallel-size", "2", *SMALL_CACHE]
    server = server_process.start(folder, flags, log, WHYRANK_MAX_WAITING_DOCUMENTS=str(_WAITING))
    try:
        return await measure_server(server)
    finally:
        server.process.terminate()
        server.process.wait(60)


async def measure_server(server: Server) -> dict[str, Any]:
    body = {"documents": texts(10, 1), "return_documents": False}
    clients = [httpx.AsyncClient(base_url=server.url, timeout=120) for _ in range(4)]
    before = total((await clients[0].get("/metrics")).text, "whyrank_documents_total")
    calls = (http.post("/v1/rerank", json=body | {"query": query(n)}) for n, http in enumerate(clients))
    answers = await asyncio.gather(*calls)  # a connection each: they are spread over the processes
    connections = connections_of(server)
    metrics = [(await http.get("/metrics")).text for http in clients]  # whichever process answers
    for http in clients:
        await http.aclose()
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=None)) as http:
        large = {"query": query(9), "documents": texts(_WAITING // 2 - 1, 9)}
        crowd = await asyncio.gather(*(http.post("/v1/rerank", json=large) for _ in range(20)))
    return {
        "statuses": [answer.status_code for answer in answers],
        "instance_ids": len({answer.headers["x-whyrank-identity"] for answer in answers}),
        "connections": connections,
        "documents": [total(text, "whyrank_documents_total") - before for text in metrics],
        "prompt_tokens_of_engines": {
            rank: float(count)
            for rank, count in re.findall(r'^vllm:prompt_tokens_total\{engine="(\d)".*\} (\S+)$', metrics[0], re.M)
        },
        "statuses_of_a_crowd": dict(Counter(str(answer.status_code) for answer in crowd)),
        "refusals": sorted({answer.json()["message"] for answer in crowd if answer.status_code == 429}),
        "ready_lines": server.log.read_text().count("ready in "),
    }


def faults_of_server(seen: dict[str, Any]) -> list[str]:
    expected = {
        "statuses": seen["statuses"] == [200] * 4,
        "instance_ids": seen["instance_ids"] == 1,
        "connections": len(seen["connections"]) == 2,
        "documents": seen["documents"] == [40.0] * 4,
        "prompt_tokens_of_engines": len(seen["prompt_tokens_of_engines"]) == 2
        and min(seen["prompt_tokens_of_engines"].values()) > 0,
        "statuses_of_a_crowd": seen["statuses_of_a_crowd"].keys() == {"200", "429"},
        "refusals": any(
            f"accepts {_WAITING // 2} at once in each of its 2 processes" in text for text in seen["refusals"]
        ),
        "ready_lines": seen["ready_lines"] == 1,
    }
    return [name for name, holds in expected.items() if not holds]


def write_checkpoint(kind: str, folder: Path) -> Path:
    """In a process of its own: in this one, torch must not have computed anything before engines are forked from it."""
    script = Path(__file__).with_name("tiny_checkpoint.py")
    subprocess.run([sys.executable, str(script), kind, str(folder)], check=True, stdout=sys.stderr)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-server", action="store_true", help="only the engines")
    parser.add_argument("--no-engines", action="store_true", help="only the server")
    options = parser.parse_args()
    prepare_process()
    report: dict[str, Any] = {}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        if not options.no_engines:
            report["engines"] = asyncio.run(try_engines(write_checkpoint("qwen3_5", Path(name) / "hybrid")))
            faults += faults_of_engines(report["engines"])
        if not options.no_server:
            folder = write_checkpoint("qwen3", Path(name) / "model")
            report["server"] = asyncio.run(try_server(folder, Path(name) / "log"))
            faults += faults_of_server(report["server"])
    print(json.dumps({**report, "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

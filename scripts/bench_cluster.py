#!/usr/bin/env python3
"""What Ray costs: two engines behind whyrank's ingress on Ray Serve, against one `whyrank serve`.

    scripts/setup_ray && .venv-ray/bin/python scripts/bench_cluster.py        # six minutes on two cores
    .venv-ray/bin/python scripts/bench_cluster.py --rounds 1 --callers 8

The model has one layer of size 64 (bench_overhead.py's), so that what is measured is not the model. Each round starts one
server, sends it calls of `--documents` documents from 1, 8 and 32 callers, each of which sends its next call when it has its
answer, and stops it; then the same with Ray. Every call has texts that no cache has seen.

`cpu_ms_a_call` says which processes the time goes to: `server` (in its place on Ray: `ingress`), `engines`, `proxy` (Ray's
HTTP server), `ray` (its other processes), `caller` (this one). On few cores all of these wait for each other, so calls per
second say how much a machine of that size does in all; `calls_per_second_of_one` says at which rate one server process, or one
ingress and one proxy, would be the limit if there were cores enough: the inverse of its CPU time.

Ratios are Ray / server, medians over rounds. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

import server_process
from bench_common import Work, Writer, machine
from bench_overhead import write_nano
from whyrank import EngineConfig
from whyrank.checkpoints import make_plan

_KV_GIB = 0.5
_WARM_UP_CALLS = 16
# What a process is, by the first of these that its command line contains.
_KINDS = (
    *(("EngineCore", "engines"), ("Replica:whyrank:Ingress", "ingress"), ("Replica:whyrank:Replica", "engines")),
    *(("ProxyActor", "proxy"), ("whyrank serve", "server"), ("ray", "ray"), ("gcs_server", "ray")),
)


@dataclass(frozen=True, slots=True)
class Measured:
    target: str
    callers: int
    calls_per_second: float
    p50: float
    p99: float
    cpu: dict[str, float]
    """Seconds a call."""


@contextmanager
def one_server(model: Path) -> Iterator[str]:
    flags = ("--kv-cache-memory-bytes", str(int(_KV_GIB * (1 << 30))))
    server = server_process.start(model, flags, model.parent / "log")
    try:
        yield server.url
    finally:
        server.process.terminate()
        server.process.wait(60)


@contextmanager
def on_ray(model: Path) -> Iterator[str]:
    import ray
    from ray import serve

    from whyrank.cluster.ray_serve import ClusterOptions, app

    port = server_process.free_port()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        options = ClusterOptions(model=str(model), engine={"kv_cache_gib": _KV_GIB}, replicas=2)
        serve.run(app(options), name="whyrank")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


TARGETS: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {"server": one_server, "ray": on_ray}


def cpu_seconds() -> dict[str, float]:
    """Of the processes there are, by what they are."""
    spent: dict[str, float] = defaultdict(float)
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        line, times = " ".join(process.info["cmdline"] or ()), process.info["cpu_times"]
        kind = "caller" if process.pid == os.getpid() else next((k for mark, k in _KINDS if mark in line), None)
        if kind is not None and times is not None:
            spent[kind] += times.user + times.system
    return spent


async def measure(target: str, url: str, works: Iterator[Work], callers: int, count: int) -> Measured:
    """`count` calls by so many callers, each of which waits for its answer."""
    given = list(itertools.islice(works, count))
    left, seconds = iter(given), list[float]()

    async def caller(http: httpx.AsyncClient) -> None:
        for work in left:
            began = time.perf_counter()
            body = {"query": work.query, "documents": work.documents, "return_documents": False}
            answer = (await http.post("/v1/rerank", json=body)).raise_for_status().json()
            if len(answer["results"]) != len(work.documents) or any(row.get("error") for row in answer["results"]):
                raise RuntimeError(f"{target}: a call was not answered in full")
            seconds.append(time.perf_counter() - began)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        before, began = cpu_seconds(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller(http))
        spent, after = time.perf_counter() - began, cpu_seconds()
    cpu = {kind: (after[kind] - before[kind]) / count for kind in after}
    centiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return Measured(target, callers, count / spent, centiles[49], centiles[98], cpu)


def fresh_works(model: Path, options: argparse.Namespace) -> Iterator[Work]:
    """Made in advance: making a call costs more than answering it."""
    writer = Writer(make_plan(EngineConfig(str(model))), options.pair_tokens)
    works = [writer.work(options.documents, f"call {number}") for number in range(options.calls)]
    for number in itertools.count():
        work = works[number % len(works)]
        mark = f"({number}) "  # no two calls share a prefix beyond the instruction
        yield Work(mark + work.query, work.documents, [], [])


def run(model: Path, options: argparse.Namespace) -> list[Measured]:
    works, results = fresh_works(model, options), []
    for number in range(options.rounds):
        for target in options.targets:
            print(f"round {number + 1} of {options.rounds}: starting {target}", file=sys.stderr, flush=True)
            with TARGETS[target](model) as url:
                asyncio.run(measure(target, url, works, 4, _WARM_UP_CALLS))
                for callers in options.callers:
                    results.append(asyncio.run(measure(target, url, works, callers, options.calls)))
                    print(_line(results[-1]), file=sys.stderr, flush=True)
    return results


def _line(one: Measured) -> str:
    return f"  {one.callers} callers: {one.calls_per_second:.1f} calls/s, p50 {one.p50:.3f} s, p99 {one.p99:.3f} s"


def summaries(results: Sequence[Measured]) -> list[dict[str, Any]]:
    table = []
    for callers in dict.fromkeys(one.callers for one in results):
        of = {name: [one for one in results if (one.target, one.callers) == (name, callers)] for name in TARGETS}
        row: dict[str, Any] = {"callers": callers} | {name: _median(some) for name, some in of.items() if some}
        if len(row) == 3:
            for key in ("calls_per_second", "p50", "p99"):
                row[f"{key}_ray_over_server"] = round(row["ray"][key] / row["server"][key], 3)
        table.append(row)
    return table


def _median(some: Sequence[Measured]) -> dict[str, Any]:
    def middle(values: Iterator[float]) -> float:
        return float(f"{statistics.median(values):.4g}")

    cpu = {kind: middle(one.cpu.get(kind, 0.0) for one in some) for kind in sorted(some[0].cpu)}
    fronts = [kind for kind in ("server", "ingress", "proxy") if cpu.get(kind)]
    return {
        "calls_per_second": middle(one.calls_per_second for one in some),
        "range": [round(pick(one.calls_per_second for one in some), 1) for pick in (min, max)],
        "p50": middle(one.p50 for one in some),
        "p99": middle(one.p99 for one in some),
        "cpu_ms_a_call": {kind: round(1e3 * seconds, 2) for kind, seconds in cpu.items()},
        "calls_per_second_of_one": {kind: round(1 / cpu[kind], 1) for kind in fronts},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=[*TARGETS], default=[*TARGETS])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--calls", type=int, default=200, help="of each measurement")
    parser.add_argument("--documents", type=int, default=20, help="of a call")
    parser.add_argument("--pair-tokens", type=int, default=316, help="tokens of a query and a document together")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(write_nano(Path(folder)), options)
    print(json.dumps({"machine": machine(), "settings": vars(options), "results": summaries(results)}))


if __name__ == "__main__":
    main()

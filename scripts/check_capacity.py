#!/usr/bin/env python3
"""Is scripts/capacity.py right? What it simulates, beside a real run of two engines on Ray Serve on this machine.

    scripts/setup_ray && .venv-ray/bin/python scripts/check_capacity.py       # five minutes on two cores
    .venv-ray/bin/python scripts/check_capacity.py --loads 0.3 --calls 200

First single calls of several sizes, one at a time, from which the cost of a step is fitted, with all that HTTP and Ray add to
it. Then calls at random moments (Poisson), so many that both engines together would be busy for the shares `--loads` of the
time; the simulation gets the very same moments. On a machine with only as many cores as engines, the callers and the process
that takes requests slow the engines down, which the simulation does not know of.

The last line of stdout is one JSON document: p50 and p99 in milliseconds, measured and simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from bench_cluster import on_ray
from bench_common import Work, Writer, machine
from capacity import Measured, fit
from capacity_simulation import Call, Routing, StepModel, Traffic, make_calls, offered_load, quantile, simulate
from whyrank import EngineConfig
from whyrank.checkpoints import make_plan
from whyrank.config import DEMO

_REPLICAS = 2
# Steps of an engine on a CPU (whyrank/runtimes/engine_options.py).
_MAX_TOKENS, _MAX_SEQUENCES = 1024, 64
# Documents and tokens of the single calls; each call is one tile.
_SIZES = ((1, 100), (1, 400), (8, 100), (8, 300), (20, 100), (20, 200), (32, 100), (32, 300))
_REPEATS = 5


class Caller:
    def __init__(self, http: httpx.AsyncClient, model: Path) -> None:
        self._http, self._numbers = http, itertools.count()
        plan = make_plan(EngineConfig(str(model)))
        self._writers = {tokens: Writer(plan, tokens) for tokens in {tokens for _, tokens in _SIZES}}

    def works(self, documents: int, tokens: int) -> Iterator[Work]:
        """No two have texts in common."""
        while True:
            yield self._writers[tokens].work(documents, f"capacity {next(self._numbers)}")

    async def call(self, work: Work) -> tuple[float, int]:
        """Seconds, and tokens that the cache did not have."""
        body = {"query": work.query, "documents": work.documents, "return_documents": False}
        began = time.perf_counter()
        answer = (await self._http.post("/v1/rerank", json=body)).raise_for_status().json()
        usage = answer["usage"]
        return time.perf_counter() - began, usage["prompt_tokens"] - usage["cached_tokens"]


async def single_calls(caller: Caller) -> list[Measured]:
    rows = []
    for documents, tokens in _SIZES:
        works = list(itertools.islice(caller.works(documents, tokens), _REPEATS + 1))
        answers = [await caller.call(work) for work in works][1:]
        computed = statistics.median(computed for _, computed in answers)
        steps = max(1, math.ceil(computed / _MAX_TOKENS))
        rows.append(Measured(steps, computed, documents, statistics.median(seconds for seconds, _ in answers)))
        print(
            f"{documents} documents of {tokens} tokens: {1000 * rows[-1].seconds:.1f} ms", file=sys.stderr, flush=True
        )
    return rows


async def under_load(caller: Caller, calls: Sequence[Call], works: Sequence[Work]) -> list[float]:
    """Seconds of each call."""
    start = time.perf_counter() + 0.5

    async def one(call: Call, work: Work) -> float:
        await asyncio.sleep(start + call.arrival - time.perf_counter())
        await caller.call(work)
        return time.perf_counter() - start - call.arrival

    return list(await asyncio.gather(*(one(call, work) for call, work in zip(calls, works, strict=True))))


async def compare(caller: Caller, step: StepModel, load: float, options: argparse.Namespace) -> dict[str, Any]:
    documents, tokens = 20, 200
    works = list(itertools.islice(caller.works(documents, tokens), options.calls))
    _, computed = await caller.call(next(caller.works(documents, tokens)))
    one_a_second = Traffic(1.0, documents, round(computed / documents))
    rate = load * _REPLICAS / offered_load(step, one_a_second)
    calls = make_calls(Traffic(rate, documents, one_a_second.tokens), options.calls, seed=1)
    print(f"load {load}: {rate:.1f} calls a second", file=sys.stderr, flush=True)
    measured = await under_load(caller, calls, works)
    simulated = [simulate(step, calls, _REPLICAS, Routing(), seed) for seed in range(9)]
    row: dict[str, Any] = {"load": load, "calls_per_second": round(rate, 1), "calls": options.calls}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        theirs = statistics.median(quantile(run.scored, share) for run in simulated)
        ours = quantile(measured, share)
        row |= {f"{name}_ms": round(1000 * ours, 1), f"{name}_ms_simulated": round(1000 * theirs, 1)}
        row[f"{name}_measured_over_simulated"] = round(ours / theirs, 3)
    return row


async def measure(url: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        caller = Caller(http, model)
        step, error = fit(await single_calls(caller), _MAX_TOKENS, _MAX_SEQUENCES)
        loads = [await compare(caller, step, load, options) for load in options.loads]
    return {
        "step": {"fixed": step.fixed, "per_token": step.per_token, "per_sequence": step.per_sequence},
        "largest_relative_error_of_fit": round(error, 3),
        "loads": loads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO, help="small enough for one core")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6], help="shares of the engines' time")
    parser.add_argument("--calls", type=int, default=150, help="at each load")
    options = parser.parse_args()
    model = Path(EngineConfig(options.model).source)
    with on_ray(model) as url:
        result = asyncio.run(measure(url, model, options))
    print(json.dumps({"machine": machine(), "settings": vars(options), **result}))


if __name__ == "__main__":
    main()

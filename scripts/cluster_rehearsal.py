#!/usr/bin/env python3
"""Two engines on a Ray cluster of two nodes on this machine, and faults in the middle: are the scores those of one process?

    scripts/cluster_rehearsal.py                               # a quarter of an hour on two cores, 8 GB of memory
    scripts/cluster_rehearsal.py --calls 60 --faults none replica

Each fault is a round of `--calls` calls at once, of `--documents` documents each. After a fifth of them has been answered:

none        nothing happens
replica     one of the two engines' processes is killed
node        the node that has the other engine is taken away, then comes back
ingress     one of the two processes that take requests is killed

Needs Ray: pip install 'whyrank[ray]'. The last line of stdout is one JSON document: for each fault the calls that were
answered in full, the errors of the others, and the largest difference from one process's scores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_common import machine
from server_process import free_port
from whyrank import AsyncClient, Reranker
from whyrank.client import RetryPolicy
from whyrank.config import DEMO
from whyrank.errors import WhyrankError

FAULTS = ("none", "replica", "node", "ingress")
_CALL_SECONDS = 240.0
_RECOVERY_SECONDS = 300.0
_CALLS_OF_A_CLIENT = 64  # more wait inside a client
_DISTINCT_CALLS = 100

Call = tuple[str, list[str]]


@dataclass
class Round:
    """What became of the calls of one fault."""

    fault: str
    answered: int = 0
    largest_difference: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        return {
            "fault": self.fault,
            "answered_in_full": self.answered,
            "errors": dict(self.errors),
            "client_retries": self.retries,
            "largest_difference": self.largest_difference,
            "seconds": round(self.seconds, 1),
        }


def calls_of(count: int, documents: int) -> list[Call]:
    """At most so many different ones, because each is first scored by one process."""
    return [
        (
            f"Which room of house {number} has a door of glass?",
            [
                f"Room {room} of house {number} has {room * number % 7} windows and a door of {wood}."
                for room, wood in zip(range(documents), ("glass", "oak", "steel") * documents, strict=False)
            ],
        )
        for number in range(min(count, _DISTINCT_CALLS))
    ]


async def expected_scores(calls: Sequence[Call]) -> list[dict[int, float]]:
    async with Reranker(DEMO, kv_cache_gib=0.5) as reranker:
        rows = [await reranker.score(query, documents) for query, documents in calls]
    return [{row.index: row.score for row in ranking if row.score is not None} for ranking in rows]


class Rehearsal:
    """The cluster: a node for each engine."""

    def __init__(self, port: int) -> None:
        import ray
        from ray import serve
        from ray.cluster_utils import Cluster

        from whyrank.cluster.ray_serve import ClusterOptions, app

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self._second = self._cluster.add_node(num_cpus=1)
        ray.init(address=self._cluster.address, log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(ClusterOptions(model=DEMO, engine={}, replicas=2, ingresses=2, num_cpus=1)), name="whyrank")

    def cause(self, fault: str) -> None:
        if fault == "replica":
            os.kill(pid_of("Replica"), signal.SIGKILL)
        elif fault == "ingress":
            os.kill(pid_of("Ingress"), signal.SIGKILL)
        elif fault == "node":
            self._cluster.remove_node(self._second, allow_graceful=False)

    def recover(self, fault: str) -> None:
        """Returns when everything runs again."""
        if fault == "node":
            self._second = self._cluster.add_node(num_cpus=1)
        end = time.monotonic() + _RECOVERY_SECONDS
        while not self._is_complete():
            if time.monotonic() > end:
                raise RuntimeError(f"the cluster did not recover from {fault} in {_RECOVERY_SECONDS:.0f} s")
            time.sleep(1)

    def _is_complete(self) -> bool:
        from ray import serve

        deployments = serve.status().applications["whyrank"].deployments
        return all({**deployments[name].replica_states} == {"RUNNING": 2} for name in ("Replica", "Ingress"))

    def close(self) -> None:
        import ray
        from ray import serve

        serve.shutdown()
        ray.shutdown()
        self._cluster.shutdown()


def pid_of(deployment: str) -> int:
    """By the names that Ray gives its processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"ray::ServeReplica:whyrank:{deployment}".encode() in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise RuntimeError(f"no process of {deployment} is running")


async def one_round(
    url: str,
    fault: str,
    calls: Sequence[Call],
    expected: Sequence[dict[int, float]],
    count: int,
    cause: Callable[[], None],
) -> Round:
    outcome, left = Round(fault), iter(range(count))
    finished = 0

    def retried(url: str, error: WhyrankError) -> None:
        outcome.retries += 1

    async def call(client: AsyncClient, number: int) -> None:
        nonlocal finished
        query, documents = calls[number % len(calls)]
        try:
            rows = await client.score(query, documents)
        except WhyrankError as error:
            outcome.errors[type(error).__name__] += 1
        else:
            scores = expected[number % len(calls)]
            missing = [row.error for row in rows if row.score is None]
            outcome.errors.update(f"document: {error.code if error else '?'}" for error in missing)
            outcome.answered += not missing and len(rows) == len(documents)
            differences = [abs(row.score - scores[row.index]) for row in rows if row.score is not None]
            outcome.largest_difference = max(outcome.largest_difference, *differences)
        finished += 1
        if finished == count // 5:
            await asyncio.to_thread(cause)

    async with contextlib.AsyncExitStack() as opened:
        policy = RetryPolicy(attempts=8, waits=retried)
        clients = [
            await opened.enter_async_context(AsyncClient(url, timeout=_CALL_SECONDS, retry=policy))
            for _ in range(-(-count // _CALLS_OF_A_CLIENT))
        ]
        began = time.monotonic()
        await asyncio.gather(*(call(clients[number % len(clients)], number) for number in left))
        outcome.seconds = time.monotonic() - began
    return outcome


def rounds(
    rehearsal: Rehearsal, url: str, options: argparse.Namespace, calls: list[Call], expected: Any
) -> Iterator[Round]:
    for fault in options.faults:
        done = asyncio.run(one_round(url, fault, calls, expected, options.calls, lambda: rehearsal.cause(fault)))  # noqa: B023
        print(json.dumps(done.summary()), file=sys.stderr, flush=True)
        yield done
        rehearsal.recover(fault)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=[*FAULTS])
    parser.add_argument("--calls", type=int, default=500, help="of each round, all at once")
    parser.add_argument("--documents", type=int, default=20, help="of a call")
    options = parser.parse_args()
    calls = calls_of(options.calls, options.documents)
    expected = asyncio.run(expected_scores(calls))
    port = free_port()
    rehearsal = Rehearsal(port)
    try:
        results = [done.summary() for done in rounds(rehearsal, f"http://127.0.0.1:{port}", options, calls, expected)]
    finally:
        rehearsal.close()
    print(json.dumps({"machine": machine(), "settings": vars(options), "results": results}))


if __name__ == "__main__":
    main()

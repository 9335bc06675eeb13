"""How many replicas there should be, from what replicas report and Ray counts."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inprocess import FakeRuntime, prism_plan
from whyrank import Reranker
from whyrank.cluster import autoscaling
from whyrank.cluster.autoscaling import QueuedTokens
from whyrank.cluster.remote import Tile
from whyrank.cluster.replica import EngineReplica
from whyrank.runtimes.base import GenerationParams
from whyrank.start import Started


def context(tokens: dict[str, float], messages: dict[str, float], queued: float | None = 0.0) -> Any:
    return SimpleNamespace(
        aggregated_metrics={"tokens": tokens, "messages": messages}, total_queued_requests=queued, target_num_replicas=3
    )


@pytest.mark.parametrize(
    ("tokens", "messages", "queued", "replicas"),
    [
        ({"a": 1000.0, "b": 1000.0}, {"a": 4.0, "b": 4.0}, 0.0, 2.0),  # just right
        ({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, 0.0, 0.0),  # idle: Ray keeps the fewest
        ({"a": 4000.0, "b": 0.0}, {"a": 1.0, "b": 0.0}, 0.0, 4.0),  # one message may be large
        ({"a": 1000.0, "b": 1000.0}, {"a": 2.0, "b": 2.0}, 8.0, 6.0),  # those that wait are 500 tokens each, too
        ({"a": 1000.0}, {"a": 2.0}, None, 1.0),
    ],
)
def test_tokens_in_progress_and_waiting_decide(
    tokens: dict[str, float], messages: dict[str, float], queued: float | None, replicas: float
) -> None:
    wanted, state = QueuedTokens(1000.0)(context(tokens, messages, queued))
    assert (wanted, state) == (replicas, {})


async def test_a_replica_reports_what_it_has_in_progress(checkpoint: Callable[[str], Path]) -> None:
    plan = prism_plan(checkpoint("qwen3"))
    runtime = FakeRuntime(plan.encoder)
    replica = EngineReplica("a", Started(runtime, plan, Reranker.from_runtime(runtime, plan.encoder, plan.config), 0.0))
    assert replica.load() == {"tokens": 0, "messages": 0}
    runtime.open.clear()
    tiles = [Tile([(1, 2, 3), (1, 2)], [0, 0], None, ()), Tile([(1,)], [0], None, ())]
    reading = [asyncio.create_task(replica.read(tile)) for tile in tiles]
    writing = replica.write([(1, 2)] * 3, GenerationParams(["{}"] * 3, 40, 0.0, False, None, samples=2))
    await anext(writing)
    await asyncio.sleep(0)
    assert replica.load() == {"tokens": 3 + 2 + 1 + 40 * 2 * 3, "messages": 3}
    await writing.aclose()
    runtime.open.set()
    await asyncio.gather(*reading)
    assert replica.load() == {"tokens": 0, "messages": 0}


def test_without_reports_nothing_changes() -> None:
    unknown = context({}, {})
    assert QueuedTokens(1000.0)(unknown)[0] == 3
    unknown.aggregated_metrics = None
    assert QueuedTokens(1000.0)(unknown)[0] == 3


def test_ray_can_run_it_where_only_its_own_code_is_known() -> None:
    names = [
        name
        for node in ast.walk(ast.parse(inspect.getsource(autoscaling)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert names == ["__future__", "typing"]


def test_ray_takes_the_policy() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: scripts/test --cluster installs it")
    from ray.serve._private.autoscaling_state import _resolve_policy_callable

    from whyrank.cluster.ray_serve import ClusterOptions, replica_count

    config = replica_count(ClusterOptions(model="demo", max_replicas=4, target_tokens=500))["autoscaling_config"]
    assert (config.min_replicas, config.max_replicas) == (1, 4)
    policy = _resolve_policy_callable(config.policy)
    assert policy(context({"a": 1000.0}, {"a": 1.0}, 2.0)) == (6.0, {})
    assert replica_count(ClusterOptions(model="demo", replicas=2)) == {"num_replicas": 2}

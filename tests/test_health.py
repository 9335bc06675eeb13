"""The canary: what is refused at startup, and what /health reports for an engine that drifts, lags or dies."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inprocess import InProcess, labels_of, prism_plan
from whyrank.errors import CheckpointError, EngineDead
from whyrank.prompting.tokens import Ids


@pytest.fixture
def server(checkpoint: Callable[[str], Path]) -> InProcess:
    return InProcess(prism_plan(checkpoint("qwen3")))


def drifted(by: float) -> Callable[[Ids], tuple[float, float]]:
    return lambda ids: (labels_of(ids)[0] + by, labels_of(ids)[1])


async def health(server: InProcess) -> tuple[int, dict[str, Any]]:
    async with server.client() as client:
        answer = await client.get("/health")
    return answer.status_code, answer.json()


# At startup.


@pytest.mark.parametrize("margin", [0.0, 7.25])
async def test_a_model_that_scores_everything_alike_is_refused(server: InProcess, margin: float) -> None:
    server.runtime.says_labels = lambda ids: (margin - 0.7, -0.7)
    with pytest.raises(CheckpointError, match=rf"^tiny gives different texts the same score, .*margin {margin:.4f}"):
        await server.service.warm_up()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_model_without_numbers_is_refused(server: InProcess, value: float) -> None:
    server.runtime.says_labels = lambda ids: (value, -0.7)
    with pytest.raises(CheckpointError, match="the warm-up pair has no score: the model answered"):
        await server.service.warm_up()


@pytest.mark.parametrize("sign", [1, -1])
async def test_which_text_a_model_prefers_is_its_own_affair(server: InProcess, sign: int) -> None:
    server.runtime.says_labels = lambda ids: (sign * labels_of(ids)[0], 0.0)
    await server.service.warm_up()
    assert (await health(server))[1]["status"] == "ok"


@pytest.mark.parametrize(("mass", "warned"), [(0.4, True), (0.6, False)])
async def test_a_model_that_wants_neither_label_is_told(
    server: InProcess, caplog: pytest.LogCaptureFixture, mass: float, warned: bool
) -> None:
    def labels(ids: Ids) -> tuple[float, float]:
        share = (labels_of(ids)[0] + 4.5) / 9
        return math.log(mass * share), math.log(mass * (1 - share))

    server.runtime.says_labels = labels
    # Other tests may have imported a library of vLLM's server that silences all loggers but its own.
    caplog.set_level("WARNING", logger="whyrank")
    await server.service.warm_up()
    assert (f"{mass:.4f} of the probability on its labels" in caplog.text) is warned


# While serving.


async def test_a_well_engine_is_asked_every_few_seconds_only(server: InProcess) -> None:
    await server.service.warm_up()
    checks = len(server.runtime.salts)
    first = await health(server)
    assert first == await health(server)
    status, body = first
    assert (status, body["status"]) == (200, "ok")
    assert body["canary"]["margin"] == body["canary"]["expected"]
    assert len(server.runtime.salts) == checks + 1


@pytest.mark.parametrize(("drift", "verdict"), [(0.2, (200, "ok")), (0.3, (503, "wrong")), (-0.3, (503, "wrong"))])
async def test_a_canary_with_another_score(server: InProcess, drift: float, verdict: tuple[int, str]) -> None:
    await server.service.warm_up()
    server.runtime.says_labels = drifted(drift)
    status, body = await health(server)
    assert (status, body["status"]) == verdict
    assert body["canary"]["margin"] - body["canary"]["expected"] == pytest.approx(drift)


async def test_a_canary_without_a_score_is_wrong_until_it_has_one_again(server: InProcess) -> None:
    await server.service.warm_up()
    server.runtime.says_labels = lambda ids: (math.nan, 0.0)
    status, body = await health(server)
    assert (status, body["status"], body["canary"]["margin"]) == (503, "wrong", None)
    server.runtime.says_labels = labels_of
    assert (await health(server))[1]["status"] == "ok"


async def test_a_canary_that_waits_means_busy_and_leaves_nothing_behind(server: InProcess) -> None:
    await server.service.warm_up()
    server.service.canary_seconds = 0.05
    server.runtime.open.clear()
    status, body = await health(server)
    assert (status, body["status"], body["canary"]["margin"]) == (200, "busy", None)
    assert server.runtime.left == 1


async def test_a_dead_engine_is_told_even_where_all_was_well_a_moment_ago(server: InProcess) -> None:
    await server.service.warm_up()
    assert (await health(server))[1]["status"] == "ok"
    server.runtime.failure = EngineDead("the engine process has died")
    async with server.client() as client:
        assert (await client.post("/v1/rerank", json={"query": "q", "documents": ["a"]})).status_code == 503
    status, body = await health(server)
    assert (status, body["status"], body["canary"]["margin"]) == (503, "dead", None)


async def test_a_server_that_stops_is_out_of_rotation(server: InProcess) -> None:
    await server.service.warm_up()
    server.service.stop(0, asyncio.get_running_loop())
    assert (await health(server))[1]["status"] == "stopping"

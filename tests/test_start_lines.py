"""The few lines that `whyrank serve` itself prints: what is served, how to reach it, and when it is ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from inprocess import FakeRuntime
from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.prompting.formats import Labels
from whyrank.serving.admission import Limits
from whyrank.serving.service import Service
from whyrank.serving.start_lines import Start, print_start, print_when_ready, server_url

MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(checkpoint: Callable[[str], Path]) -> MakePlan:
    return lambda kind="qwen3", **options: make_plan(EngineConfig(str(checkpoint(kind)), prompt="prism", **options))


class OnVllm(FakeRuntime):
    """Reports the size of a prefix cache in the place where a real one does."""

    def __init__(self, plan: Plan, **cache: Any) -> None:
        super().__init__(plan.encoder)
        sizes = {"enable_prefix_caching": True, "num_gpu_blocks": 2048, "block_size": 32} | cache
        self.engine = SimpleNamespace(vllm_config=SimpleNamespace(cache_config=SimpleNamespace(**sizes)))

    def facts(self) -> dict[str, str | int]:
        return {"dtype": "float32"}


class OnTwoEngines(OnVllm):
    """Of parallel engines, vLLM adds up the blocks."""

    @property
    def engines(self) -> list[OnTwoEngines]:
        return [self, self]

    def choose(self) -> OnTwoEngines:
        return self


async def ready(
    runtime: FakeRuntime, plan: Plan, *keys: str, url: str | None = "http://localhost:8000"
) -> uvicorn.Config:
    config = uvicorn.Config("app")
    service = Service(runtime, plan, Limits(), keys, "tiny")
    print_when_ready(config, service, Start(time.time() - 7, "because"), url, docs=True)
    assert config.callback_notify is not None
    await config.callback_notify()
    return config


async def test_who_starts_a_server_reads_what_it_serves_and_where(
    plan: MakePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    served = plan()
    capsys.readouterr()  # writing the checkpoint shows a progress bar
    print_start(served)
    config = await ready(OnVllm(served, kv_cache_memory_bytes=1 << 29), served)
    assert config.callback_notify is None  # printed once
    first, wait, *rest = capsys.readouterr().err.splitlines()
    for part in (served.config.model, served.format.fingerprint, "route generate"):
        assert part in first
    assert "--verbose" in wait
    assert rest == [
        "dtype: float32, because",
        "prefix cache: 0.50 GiB for 65,536 tokens",
        "access: everyone who can reach this address (--api-key KEY requires a key)",
        "playground: http://localhost:8000/playground",
        "API docs: http://localhost:8000/docs",
        "ready in 7 s",
    ]


async def test_the_prefix_cache_of_each_of_several_engines(plan: MakePlan, capsys: pytest.CaptureFixture[str]) -> None:
    served = plan()
    await ready(OnTwoEngines(served, kv_cache_memory_bytes=1 << 29, num_gpu_blocks=2 * 2048), served)
    assert "prefix cache: 0.50 GiB for 65,536 tokens in each of 2 engines\n" in capsys.readouterr().err


async def test_labels_that_the_engines_answers_chose_are_told(
    plan: MakePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = plan()
    other = chosen.format.model_copy(update={"labels": Labels(positive="Yes", negative=1)})
    waiting = replace(chosen, choices=(other, chosen.format))
    print_start(waiting)
    assert "prompt prism, route" in capsys.readouterr().err  # the labels are part of the fingerprint
    await ready(OnVllm(chosen, kv_cache_memory_bytes=None), replace(waiting, label_masses=(0.125, 0.75)))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prompt: ")]
    assert line == (
        f"prompt: {chosen.format.fingerprint}, labels 'yes'/'no', which got most of the probability on built-in pairs "
        f"('Yes'/{chosen.encoder.token_text(1)!r} 0.12, 'yes'/'no' 0.75)"
    )


async def test_what_is_otherwise_is_said(plan: MakePlan, capsys: pytest.CaptureFixture[str]) -> None:
    served = plan()
    await ready(OnVllm(served, kv_cache_memory_bytes=None), served, "K1", url=None)
    output = capsys.readouterr().err
    assert "prefix cache: 65,536 tokens" in output and "access: with the API key\n" in output
    assert "http" not in output and "K1" not in output
    await ready(OnVllm(served, enable_prefix_caching=False), served)
    await ready(FakeRuntime(served.encoder), served)
    output = capsys.readouterr().err
    assert "prefix cache: off" in output and "prefix cache: none, encoders" in output


@pytest.mark.parametrize(
    ("kind", "dtype", "on_cpu", "reason"),
    [
        ("qwen3", "float32", True, "as --dtype says"),
        ("qwen3", "auto", True, "since the checkpoint is in float32"),
        ("qwen3_5", "auto", True, "the only one of this model's CPU kernels"),
        ("qwen3_5", "auto", False, "chosen for this checkpoint"),
    ],
)
def test_the_dtype_has_a_reason(
    plan: MakePlan, kind: str, dtype: str, on_cpu: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Start.of(plan(kind, dtype=dtype), on_cpu, began=5.0)
    assert start == Start(5.0, reason)
    monkeypatch.setenv("WHYRANK_START", "")  # restored afterwards
    assert Start.from_environment() is None
    start.to_environment()
    assert Start.from_environment() == start


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, "https://localhost:80"),
        ("0.0.0.0", "https://localhost:80"),
        ("::", "https://localhost:80"),
        ("10.0.0.7", "https://10.0.0.7:80"),
        ("::1", "https://[::1]:80"),
    ],
)
def test_an_address_that_a_browser_takes(host: str | None, url: str) -> None:
    assert server_url(host, 80, tls=True) == url
    assert server_url(host, 80) == url.replace("https", "http")

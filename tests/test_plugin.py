"""What a plain `vllm serve` with the plugin logs at startup, or is refused for. No engine: only vLLM's configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import KIND_OF
from inprocess import InProcess, prism_plan
from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.errors import CheckpointError
from whyrank.serving.connections import END_SECONDS
from whyrank.serving.plugin import DrainOnShutdown, check_config, config_warnings, enable_warnings


@pytest.fixture
def plan(checkpoint: Callable[[str], Path]) -> Callable[..., Plan]:
    return lambda prompt="prism", kind=None, route=None: make_plan(
        EngineConfig(str(checkpoint(kind or KIND_OF[prompt])), prompt=prompt, route=route)
    )


def engine(**settings: Any) -> Any:
    """vLLM's config as `whyrank serve` makes it on a GPU, except for what `settings` changes."""
    is_ = {"device": "cuda", "head": torch.float32, "caching": True, "unit": 16, "policy": "priority"} | settings
    return SimpleNamespace(
        model_config=SimpleNamespace(
            head_dtype=is_["head"],
            logprobs_mode=is_.get("logprobs_mode", "raw_logprobs"),
            hf_config=SimpleNamespace(**is_.get("hf_config", {})),
        ),
        kernel_config=SimpleNamespace(ir_op_priority=SimpleNamespace(rms_norm=is_.get("norms", ["whyrank", "native"]))),
        cache_config=SimpleNamespace(enable_prefix_caching=is_["caching"], prefix_match_unit=is_["unit"]),
        scheduler_config=SimpleNamespace(policy=is_["policy"]),
        device_config=SimpleNamespace(device_type=is_["device"]),
        speculative_config=is_.get("speculative"),
    )


NORMS = '{"rms_norm": ["whyrank"], "fused_add_rms_norm": ["whyrank"]}'
GENERATE, HYBRID, CLASSIFY = {}, {"kind": "qwen3_5"}, {"route": "classify"}


@pytest.mark.parametrize("config", [GENERATE, HYBRID, CLASSIFY])
def test_what_whyrank_serve_starts_needs_no_advice(plan: Callable[..., Plan], config: dict[str, str]) -> None:
    assert config_warnings(engine(), plan(**config)) == []
    check_config(engine(), plan(**config))


@pytest.mark.parametrize(
    ("settings", "config", "flag"),
    [
        ({"caching": False}, GENERATE, "--enable-prefix-caching"),
        ({"caching": False, "unit": None}, HYBRID, "--enable-prefix-caching"),
        ({"caching": False}, CLASSIFY, "--enable-prefix-caching"),
        ({"unit": None}, HYBRID, "--prefix-match-unit 16"),
        ({"unit": None}, HYBRID | CLASSIFY, "--prefix-match-unit 16"),
        ({"head": torch.bfloat16}, GENERATE, """--hf-overrides '{"head_dtype": "float32"}'"""),
        ({"head": torch.bfloat16, "device": "cpu"}, HYBRID, "--hf-overrides '{\"whyrank_label_ids\": [YES, NO]}'"),
        ({"device": "cpu", "norms": ["native"]}, GENERATE, f"--ir-op-priority '{NORMS}'"),
        ({"device": "cpu", "norms": ["native"]}, CLASSIFY, f"--ir-op-priority '{NORMS}'"),
        ({"policy": "fcfs"}, GENERATE, "--scheduling-policy priority"),
        ({"policy": "fcfs"}, CLASSIFY, "--scheduling-policy priority"),
    ],
)
def test_what_is_missing_is_told_with_its_flag(
    plan: Callable[..., Plan], settings: dict[str, Any], config: dict[str, str], flag: str
) -> None:
    made = plan(**config)
    (line,) = config_warnings(engine(**settings), made)
    labels = made.encoder.labels
    assert labels is not None
    assert line.endswith(f": give {flag.replace('YES, NO', f'{labels.positive}, {labels.negative}')}")


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        ({"unit": None}, GENERATE),
        ({"unit": None}, CLASSIFY),
        ({"head": torch.bfloat16}, CLASSIFY),
        ({"head": torch.bfloat16, "device": "cpu", "hf_config": {"whyrank_label_ids": [1, 2]}}, HYBRID),
        ({"norms": ["native"]}, GENERATE),
    ],
)
def test_what_costs_nothing_there_is_not_told(
    plan: Callable[..., Plan], settings: dict[str, Any], config: dict[str, str]
) -> None:
    assert config_warnings(engine(**settings), plan(**config)) == []


def test_a_plain_vllm_serve_is_told_all_of_it(plan: Callable[..., Plan]) -> None:
    plain = engine(head=torch.bfloat16, unit=None, policy="fcfs")
    assert len(config_warnings(plain, plan(**HYBRID))) == 3
    assert len(config_warnings(engine(caching=False, policy="fcfs"), plan())) == 2


def test_raw_logits_are_required_where_the_prompt_reads_them(plan: Callable[..., Plan]) -> None:
    with pytest.raises(CheckpointError, match="'bge-v2-gemma' reads raw logits: start with --logprobs-mode raw_logits"):
        check_config(engine(), plan("bge-v2-gemma"))
    check_config(engine(logprobs_mode="raw_logits"), plan("bge-v2-gemma"))
    check_config(engine(), plan("bge-v2-gemma", route="classify"))


def test_drafts_are_refused_where_labels_are_read(plan: Callable[..., Plan]) -> None:
    drafting = engine(speculative=SimpleNamespace(method="ngram"))
    with pytest.raises(CheckpointError, match="start without --speculative-config"):
        check_config(drafting, plan())
    check_config(drafting, plan(route="classify"))


@pytest.mark.parametrize("busy", [True, False])
async def test_the_reader_of_an_idle_engine_ends_before_the_engine_and_all_of_it_has_an_end(
    checkpoint: Callable[[str], Path], busy: bool
) -> None:
    reader = asyncio.create_task(asyncio.Event().wait())
    requests = SimpleNamespace(has_unfinished_requests=lambda: busy)  # requests on vLLM's own routes
    fake = SimpleNamespace(output_handler=reader, output_processor=requests, shutdown=lambda timeout: None)
    ends: list[float] = []
    client = DrainOnShutdown(fake, InProcess(prism_plan(checkpoint("qwen3"))).service, end_within=ends.append)
    assert not client.stopped
    await asyncio.to_thread(client.shutdown, 1)
    assert client.stopped and bool(reader.cancelling()) is not busy
    assert ends == [1 + END_SECONDS]
    reader.cancel()


@pytest.mark.parametrize(("needed", "ended"), [(0.2, True), (60, False)])
async def test_the_verifiers_engine_has_ended_when_the_server_has_unless_it_hangs(
    checkpoint: Callable[[str], Path], needed: float, ended: bool, caplog: pytest.LogCaptureFixture
) -> None:
    closed = list[bool]()

    async def aclose() -> None:
        await asyncio.sleep(needed)
        closed.append(True)

    fake = SimpleNamespace(output_handler=None, shutdown=lambda timeout: None)
    service = InProcess(prism_plan(checkpoint("qwen3"))).service
    service.verifier = SimpleNamespace(runtime=SimpleNamespace(aclose=aclose))  # type: ignore[assignment]
    client = DrainOnShutdown(fake, service, end_within=lambda seconds: None)  # this process goes on
    client.verifier_seconds = 2.0
    await asyncio.wait_for(asyncio.to_thread(client.shutdown, 1), 20)
    assert bool(closed) is ended
    assert ("the verifier's engine has not ended within 2 seconds" in caplog.text) is not ended


@pytest.fixture
def quiet_root() -> Iterator[None]:
    """The root logger as vLLM's server leaves it."""
    root, ours = logging.getLogger(), logging.getLogger("whyrank")
    levels = root.level, ours.level
    root.setLevel(logging.ERROR)
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.usefixtures("quiet_root")
def test_advice_is_heard_unless_the_user_wants_none() -> None:
    ours, service = logging.getLogger("whyrank"), logging.getLogger("whyrank.serving.service")
    ours.setLevel(logging.NOTSET)
    assert not service.isEnabledFor(logging.WARNING)
    enable_warnings()
    assert service.isEnabledFor(logging.WARNING) and not service.isEnabledFor(logging.INFO)
    ours.setLevel(logging.CRITICAL)
    enable_warnings()
    assert not service.isEnabledFor(logging.WARNING)

"""The command of `whyrank serve`: the user's flags win, ours fill in the rest. Read by vLLM's own parser, nothing starts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import KIND_OF
from whyrank.checkpoints import make_plan
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.runtimes.vllm_compat import vllm_name
from whyrank.serving.launch import mask_secrets, vllm_command

Told = Callable[..., Namespace]


@pytest.fixture(scope="module")
def told(checkpoint: Callable[[str], Path]) -> Told:
    """told(*flags, prompt="prism", on_cpu=False, **of EngineConfig): what vLLM understands of the command."""
    parser = vllm_name("make_arg_parser")(vllm_name("FlexibleArgumentParser")("whyrank"))

    def understood(*flags: str, prompt: str = "prism", on_cpu: bool = False, **config: Any) -> Namespace:
        plan = make_plan(EngineConfig(str(checkpoint(KIND_OF[prompt])), prompt=prompt, **config))
        serve, *rest = vllm_command(plan, flags, on_cpu)
        assert serve == "serve"
        found: Namespace = parser.parse_args(rest)
        return found

    return understood


def test_ours_where_nothing_is_said(told: Told) -> None:
    found = told()
    assert found.hf_overrides == {"head_dtype": "float32"}
    assert (found.enable_prefix_caching, found.scheduling_policy) == (True, "priority")
    assert (found.shutdown_timeout, found.kv_cache_memory_bytes) == (30, None)
    assert told(on_cpu=True).hf_overrides == {}
    assert told("--kv_cache_memory_bytes", "1G", on_cpu=True).kv_cache_memory_bytes == 1 << 30


def test_the_users_flags_win(told: Told) -> None:
    found = told("--no-enable-prefix-caching", "--scheduling_policy=fcfs", "--shutdown-timeout", "2", "--port", "99")
    assert (found.enable_prefix_caching, found.scheduling_policy) == (False, "fcfs")
    assert (found.shutdown_timeout, found.port) == (2, 99)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (['--hf-overrides={"rope_theta": 2}'], {"rope_theta": 2}),
        (["--hf_overrides", '{"rope_theta": 2}'], {"rope_theta": 2}),
        (["--hf-overrides.rope_theta", "2"], {"rope_theta": 2}),
        (["--hf_overrides.rope_theta=2"], {"rope_theta": 2}),
        (["--hf-overrides.text_config.rope_theta", "2"], {"text_config": {"rope_theta": 2}}),
        (["--hf-overrides", '{"text_config": {"rope_theta": 2}}'], {"text_config": {"rope_theta": 2}}),
        (["--hf-overrides", '{"a": 1}', "--hf-overrides.rope_theta", "2"], {"a": 1, "rope_theta": 2}),
        (["--hf-overrides", '{"head_dtype": "model"}'], {"head_dtype": "model"}),
        (["--hf-overrides.head_dtype", "model"], {"head_dtype": "model"}),
    ],
)
def test_the_users_overrides_join_ours(told: Told, flags: list[str], wanted: dict[str, Any]) -> None:
    assert told(*flags, "--port", "99").hf_overrides == {"head_dtype": "float32", **wanted}
    assert told(*flags, "--port", "99").port == 99
    assert "head_dtype" in wanted or told(*flags, on_cpu=True).hf_overrides == wanted


@pytest.mark.parametrize("flags", [['--hf-overrides={"rope_theta": 2}'], ["--hf-overrides.rope_theta", "2"]])
def test_overrides_do_not_cost_the_conversion(told: Told, flags: list[str]) -> None:
    found = told(*flags, prompt="qwen3-reranker", route="classify")
    assert found.hf_overrides == {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "method": "from_2_way_softmax",
        "rope_theta": 2,
    }
    listed = ("--hf-overrides.architectures+", "Mine")
    assert told(*listed, prompt="qwen3-reranker", route="classify").hf_overrides["architectures"] == ["Mine"]


@pytest.mark.parametrize("value", ["{", "7", "[]"])
def test_overrides_that_are_no_object_are_refused(told: Told, capsys: pytest.CaptureFixture[str], value: str) -> None:
    with pytest.raises(InvalidRequest, match="see the line above"):
        told("--hf-overrides", value)
    assert "--hf-overrides" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ("--api-key K1 K2 --port 99", "--api-key *** *** --port 99"),
        ("--port 99 --api_key K1", "--port 99 --api_key ***"),
        ("--api-key=K1 --api-k=K2 --api-ke K3", "--api-key=*** --api-k=*** --api-ke ***"),
        ("--hf-token T --hf_token=T", "--hf-token *** --hf_token=***"),
        ("--api-server-count 2 --hf-overrides.a=1", "--api-server-count 2 --hf-overrides.a=1"),
    ],
)
def test_keys_and_tokens_are_not_shown(flags: str, shown: str) -> None:
    assert mask_secrets(["serve", "model", *flags.split()]) == ["serve", "model", *shown.split()]

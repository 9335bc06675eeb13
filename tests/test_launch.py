"""The command of `whyrank serve`: the user's flags win, ours fill in the rest. Parsed by vLLM's own parser; nothing starts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import KIND_OF
from whyrank.checkpoints import make_plan
from whyrank.config import EngineConfig
from whyrank.errors import CheckpointError, InvalidRequest
from whyrank.runtimes.vllm_compat import vllm_name
from whyrank.serving.flags import config_file_flags, mask_secrets, model_in_config_file, vllm_command
from whyrank.serving.launch import serve

FlagsOf = Callable[..., Namespace]


@pytest.fixture(scope="module")
def flags_of(checkpoint: Callable[[str], Path]) -> FlagsOf:
    """flags_of(*flags, prompt="prism", on_cpu=False, quiet=False, **of EngineConfig): the command as vLLM understands it."""
    parser = vllm_name("make_arg_parser")(vllm_name("FlexibleArgumentParser")("whyrank"))

    def understood(
        *flags: str, prompt: str = "prism", on_cpu: bool = False, quiet: bool = False, **config: Any
    ) -> Namespace:
        plan = make_plan(EngineConfig(str(checkpoint(KIND_OF[prompt])), prompt=prompt, **config))
        serve, *rest = vllm_command(plan, flags, on_cpu, quiet)
        assert serve == "serve"
        parsed: Namespace = parser.parse_args(rest)
        return parsed

    return understood


def test_ours_where_nothing_is_said(flags_of: FlagsOf) -> None:
    parsed = flags_of()
    assert parsed.hf_overrides == {"head_dtype": "float32"}
    assert (parsed.enable_prefix_caching, parsed.scheduling_policy) == (True, "priority")
    assert (parsed.shutdown_timeout, parsed.kv_cache_memory_bytes) == (30, None)
    assert parsed.enable_offline_docs
    assert parsed.cudagraph_capture_sizes[-1] == 512
    assert flags_of(on_cpu=True).hf_overrides == {}
    (labels,) = flags_of(on_cpu=True, dtype="bfloat16").hf_overrides.values()
    assert [type(label) for label in labels] == [int, int]
    assert flags_of("--kv_cache_memory_bytes", "1G", on_cpu=True).kv_cache_memory_bytes == 1 << 30


def test_the_users_flags_win(flags_of: FlagsOf) -> None:
    parsed = flags_of(
        "--no-enable-prefix-caching", "--scheduling_policy=fcfs", "--shutdown-timeout", "2", "--port", "99"
    )
    assert (parsed.enable_prefix_caching, parsed.scheduling_policy) == (False, "fcfs")
    assert (parsed.shutdown_timeout, parsed.port) == (2, 99)


def test_steps_are_short_where_tenants_share_the_engine_on_a_cpu(flags_of: FlagsOf) -> None:
    one, two = ("--api-key", "K1"), ("--api-key", "K1", "K2")
    sizes = [flags_of(*keys, on_cpu=True).max_num_batched_tokens for keys in ((), one, two)]
    assert sizes == [1024, 1024, 512]
    assert flags_of(*two, "--max-num-batched-tokens", "2048", on_cpu=True).max_num_batched_tokens == 2048
    assert flags_of(*two).max_num_batched_tokens == flags_of().max_num_batched_tokens  # on a GPU


def test_engines_in_parallel_and_gpus_that_share_a_model(flags_of: FlagsOf) -> None:
    parsed = flags_of("--tensor-parallel-size", "4", "--data-parallel-size=2", "--api-server-count", "3")
    assert (parsed.tensor_parallel_size, parsed.data_parallel_size, parsed.api_server_count) == (4, 2, 3)
    assert flags_of("-tp", "8").tensor_parallel_size == 8
    assert flags_of(tensor_parallel_size=2).tensor_parallel_size == 2
    assert flags_of("--tensor_parallel_size=4", tensor_parallel_size=2).tensor_parallel_size == 4


def test_norms_on_a_cpu(flags_of: FlagsOf) -> None:
    """vLLM refuses to take an order of preference from two places."""
    given = '{"rms_norm": ["native"]}'
    for flags, norms in (
        ((), ["whyrank"]),
        (("--ir-op-priority", given), ["native"]),
        (("--ir_op_priority", given), ["native"]),
        (("--kernel-config", f'{{"ir_op_priority": {given}}}'), []),
    ):
        assert flags_of(*flags, on_cpu=True).ir_op_priority.rms_norm == norms
    assert flags_of().ir_op_priority.rms_norm == []


def test_a_cache_of_a_given_size_fits_in_beside_another_model(flags_of: FlagsOf) -> None:
    size = "--kv-cache-memory-bytes", "1G"
    assert flags_of().gpu_memory_utilization > 0.5
    assert flags_of(*size).gpu_memory_utilization == 0.01
    assert flags_of(*size, "--gpu-memory-utilization", "0.4").gpu_memory_utilization == 0.4
    assert flags_of(*size, on_cpu=True).gpu_memory_utilization > 0.5


@pytest.mark.parametrize(
    "flags",
    [
        ("--max-cudagraph-capture-size", "8"),
        ("--compilation-config.cudagraph_capture_sizes", "[8]"),
        ("-cc.cudagraph_capture_sizes", "[8]"),
    ],
)
def test_who_decides_on_the_graphs_gets_none_of_ours(flags_of: FlagsOf, flags: tuple[str, ...]) -> None:
    assert flags_of(*flags).cudagraph_capture_sizes is None


def test_a_quiet_server_has_neither_progress_bars_nor_a_line_for_each_request(flags_of: FlagsOf) -> None:
    for quiet, level in ((True, "warning"), (False, "info")):
        parsed = flags_of(quiet=quiet)
        assert (parsed.uvicorn_log_level, parsed.use_tqdm_on_load) == (level, not quiet)


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (["--uvicorn_log_level=debug"], "debug"),
        (["--disable-access-log-for-endpoints", "/health"], "info"),
        (["--log-level", "DEBUG"], "info"),
        (["--logging-config.formatter", "json"], "info"),
        (["--max-logprobs", "30"], "warning"),
    ],
)
def test_who_gives_a_log_flag_wants_a_line_for_each_request(flags_of: FlagsOf, flags: list[str], level: str) -> None:
    assert flags_of(*flags, quiet=True).uvicorn_log_level == level


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
def test_the_users_overrides_join_ours(flags_of: FlagsOf, flags: list[str], wanted: dict[str, Any]) -> None:
    assert flags_of(*flags, "--port", "99").hf_overrides == {"head_dtype": "float32", **wanted}
    assert flags_of(*flags, "--port", "99").port == 99
    assert "head_dtype" in wanted or flags_of(*flags, on_cpu=True).hf_overrides == wanted


@pytest.mark.parametrize("flags", [['--hf-overrides={"rope_theta": 2}'], ["--hf-overrides.rope_theta", "2"]])
def test_overrides_do_not_cost_the_conversion(flags_of: FlagsOf, flags: list[str]) -> None:
    parsed = flags_of(*flags, prompt="qwen3-reranker", route="classify")
    assert parsed.hf_overrides == {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "method": "from_2_way_softmax",
        "rope_theta": 2,
    }
    listed = ("--hf-overrides.architectures+", "Mine")
    assert flags_of(*listed, prompt="qwen3-reranker", route="classify").hf_overrides["architectures"] == ["Mine"]


@pytest.mark.parametrize("value", ["{", "7", "[]"])
def test_overrides_that_are_no_object_are_refused(
    flags_of: FlagsOf, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(InvalidRequest, match="see the line above"):
        flags_of("--hf-overrides", value)
    assert "--hf-overrides" in capsys.readouterr().err


def written(folder: Path, text: str, name: str = "vllm.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_the_settings_of_vllms_config_file_are_the_users(flags_of: FlagsOf, tmp_path: Path) -> None:
    text = "enable-prefix-caching: false\nmax_num_seqs: 7\nshutdown-timeout: 2\nhf-overrides:\n  rope_theta: 2\n"
    path = written(tmp_path, text + "aggregate-engine-logging: false\n")
    for flags in (["--config", path], [f"--config={path}"]):
        parsed = flags_of(*flags)
        assert (parsed.enable_prefix_caching, parsed.max_num_seqs, parsed.shutdown_timeout) == (False, 7, 2)
        assert parsed.hf_overrides == {"head_dtype": "float32", "rope_theta": 2}
        assert parsed.scheduling_policy == "priority"


def test_flags_go_before_the_config_file(flags_of: FlagsOf, tmp_path: Path) -> None:
    path = written(tmp_path, "max-num-seqs: 7\nport: 99\nhf-overrides: {rope_theta: 2, a: 1}\n")
    parsed = flags_of(
        "--max-num-seqs", "8", "--config", path, "--hf-overrides.rope_theta", "3", "--enable-prefix-caching"
    )
    assert (parsed.max_num_seqs, parsed.port, parsed.enable_prefix_caching) == (8, 99, True)
    assert parsed.hf_overrides == {"head_dtype": "float32", "rope_theta": 3, "a": 1}


def test_the_config_file_decides_how_prompts_are_made(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    model = str(checkpoint("qwen3"))
    path = written(tmp_path, "max-model-len: 600\n")
    with pytest.raises(CheckpointError, match="max_length of at least"):
        serve(EngineConfig(model, "prism"), ["--config", path], dry_run=True)
    serve(EngineConfig(model, "prism"), ["--config", path, "--max-model-len", "4k"], dry_run=True)


def test_the_server_of_encoders_reads_the_config_file(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "model: other\nport: 99\nhost: 127.0.0.1\ntrust-remote-code: false\napi_key: [K1, K2]\n")
    serve(EngineConfig(str(checkpoint("deberta")), "multi-hop"), ["--config", path, "--port", "98"], dry_run=True)
    assert "127.0.0.1:98" in capsys.readouterr().err


def test_the_config_file_may_name_the_model(tmp_path: Path) -> None:
    assert model_in_config_file(["--config", written(tmp_path, "port: 1\nmodel: acme/reranker\n")]) == "acme/reranker"
    assert model_in_config_file(["--config", written(tmp_path, "port: 1\n")]) is None
    assert model_in_config_file(["--port", "1"]) is None


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "{}", "only files that end in .yaml"),
        ("a.yaml", "port: [", "cannot be read"),
        ("a.yaml", "- port", "contains no settings"),
        ("a.yml", "", "contains no settings"),
        ("none/a.yml", None, "cannot be read .No such file"),
    ],
)
def test_a_config_file_that_vllm_cannot_read_is_named(tmp_path: Path, name: str, text: str | None, reason: str) -> None:
    path = str(tmp_path / name) if text is None else written(tmp_path, text, name)
    with pytest.raises(InvalidRequest, match=f"--config {path}: .*{reason}"):
        config_file_flags(["--config", path])


def test_one_config_file_is_enough() -> None:
    with pytest.raises(InvalidRequest, match="--config is given twice"):
        config_file_flags(["--config", "a.yaml", "--config=b.yaml"])


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

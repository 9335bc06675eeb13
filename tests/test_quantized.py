"""Checkpoints that others have quantised: what is read of them, which of them the CPU build opens, and what the doctor says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from samples import DOCUMENTS, QUERY
from tiny_quantized import FORMATS, GROUP, in_groups, write_quantized
from whyrank import CheckpointError, Reranker
from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.doctor import Finding, Report, examine_running
from whyrank.dtypes import choose_dtype_for_cpu
from whyrank.prompting.scoring import score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.quantization import read_quantization
from whyrank.quantize import has_amx, int8_instructions, quantize
from whyrank.runtimes import Runtime, start_runtime
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.runtimes.reference import Reference

TEXTS = [*DOCUMENTS.values()][:4]
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def quantised(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """quantised(format) → the tiny Qwen3 in it."""
    parent = tmp_path_factory.mktemp("quantised")

    def once(name: str) -> Path:
        folder = parent / name
        if not folder.exists():
            if name == "int8":
                quantize(EngineConfig(str(checkpoint("qwen3"))), folder)
            else:
                write_quantized(name, checkpoint("qwen3"), folder)
        return folder

    return once


INT4: dict[str, Any] = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "channel"}}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            FORMATS["awq"][0] | {"modules_to_not_convert": ["visual"]},
            "awq, int4 weights with a scale per 32 inputs, inputs not rounded; not quantised: embeddings, norms, the last "
            "layer, visual",
        ),
        (
            FORMATS["gptq"][0] | {"lm_head": True, "group_size": -1},
            "gptq, int4 weights with a scale per output channel, inputs not rounded; not quantised: embeddings, norms",
        ),
        (
            FORMATS["fp8"][0] | {"weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", *"abcdef"]},
            "fp8, fp8 weights with a scale per block of 128 × 128, fp8 inputs scaled as they come; not quantised: "
            "embeddings, norms, the last layer, a, b, c, d, and 2 more",
        ),
        (
            FORMATS["fp8-compressed"][0],
            "compressed-tensors, fp8 weights with a scale per output channel, fp8 inputs scaled as they come; not "
            "quantised: embeddings, norms, the last layer",
        ),
        (
            {"config_groups": {"a": INT4, "b": INT4 | {"targets": ["re:.*lm_head", "Embedding"]}}},
            "compressed-tensors, int4 weights with a scale per output channel, inputs not rounded; not quantised: norms",
        ),
        (
            {"quant_method": "hqq"},
            "hqq, of which whyrank knows no details; not quantised: embeddings, norms, the last layer",
        ),
    ],
)
def test_what_config_json_says_is_told_in_words(config: dict[str, Any], text: str) -> None:
    for table in (
        {"quantization_config": config},
        {"compression_config": config},
        {"text_config": {"quantization_config": config}},
    ):
        assert str(read_quantization(table)) == text
    assert read_quantization({"quantization_config": None, "text_config": {}}) is None


def findings(report: Report) -> dict[str, Finding]:
    return {finding.name: finding for finding in report.findings}


# On engines.


async def opened(folder: Path) -> tuple[Runtime, Plan]:
    plan = make_plan(EngineConfig(str(folder), prompt="prism", kv_cache_gib=0.25))
    return await start_runtime(plan), plan


@pytest.mark.skipif(int8_instructions() is None, reason="a processor without VNNI or AMX")
async def test_the_doctor_compares_int8_with_transformers_that_rounds_alike(quantised: Checkpoint) -> None:
    found = findings(await examine_running(*await opened(quantised("int8"))))
    assert found["quantised"].value == (
        "compressed-tensors, int8 weights with a scale per output channel, int8 inputs scaled as they come; not quantised: "
        "embeddings, norms, the last layer"
    )
    assert found["head"].value == "not quantised; its logits are computed in float32"
    parity = found["parity"]
    assert parity.good is True and parity.value.startswith(
        "against transformers with the same quantised weights on 11 pairs: score within"
    )
    assert "(0.05 allowed; from batch to batch" in parity.value


@pytest.mark.skipif(find_spec("gptqmodel") is not None, reason="transformers can run it here")
async def test_what_transformers_cannot_run_is_examined_all_the_same(
    quantised: Checkpoint, checkpoint: Checkpoint
) -> None:
    runtime, plan = await opened(quantised("awq"))
    rows = await Reranker.from_runtime(runtime, plan.encoder, plan.config).score(QUERY, TEXTS)
    report = await examine_running(runtime, plan)
    found = findings(report)
    assert found["dtype"].value == "float16, since vLLM computes layers in awq in 16 bits only"
    assert found["head"].value == "not quantised; its logits are computed in float32"
    assert found["cache"].good is True and found["ids"].good is True
    assert found["parity"].good is None and not report.is_compared
    assert found["parity"].value.startswith(
        "not compared: transformers cannot run this checkpoint (Loading an AWQ quantized model requires gptqmodel."
    )
    assert f"`whyrank compare ORIGINAL {plan.config.model} --data house`" in found["parity"].value
    plain = Reference(make_plan(EngineConfig(str(checkpoint("qwen3")), prompt="prism")), "float16", float32_head=True)
    round_weights(plain.model)
    for row in rows:
        (encoded,) = plan.encoder.encode(QUERY, [row.document], None, "tail")
        assert isinstance(encoded, EncodedDocument)
        wanted = score_of(plain.read(encoded.prompts[0].ids), plan.format.score_rule)
        assert row.margin == pytest.approx(wanted.margin, abs=0.05)


def round_weights(model: Any) -> None:
    """To the numbers that `write_quantized` packs into four bits."""
    for name, layer in model.named_modules():
        if name.endswith("_proj"):
            numbers, scale = in_groups(layer.weight.data.float())
            scale = scale.half().float().repeat_interleave(GROUP, dim=1)
            layer.weight.data = ((numbers - 8) * scale).to(layer.weight.dtype)


def test_a_verdict_does_not_claim_what_was_not_compared() -> None:
    report = Report((Finding("cache", "hits", good=True), Finding("parity", "not compared: no library")))
    assert report.trusted and report.verdict == "shows no fault, but its scores were compared with nothing"
    assert Report((Finding("parity", "", good=True),)).verdict == "can be trusted as served"


@pytest.mark.parametrize(
    ("name", "dtype"), [("awq", "float16"), ("gptq", "float16"), ("fp8", "bfloat16"), ("int8", "float32")]
)
def test_the_dtype_on_a_cpu_is_one_that_the_format_takes(name: str, dtype: str, quantised: Checkpoint) -> None:
    plan = make_plan(EngineConfig(str(quantised(name)), prompt="prism"))
    assert choose_dtype_for_cpu(plan, None).dtype == dtype


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "fp8",
            {},
            "is in fp8, for which vLLM's kernels need a processor with AMX, and this one has none: give the checkpoint",
        ),
        (
            "w4a16",
            {"dtype": "float32"},
            "multiplies such weights only in 16 bits; use --dtype bfloat16 or leave it out",
        ),
        ("awq", {"dtype": "float32"}, r"quantised \(awq\), and vLLM multiplies such weights only in 16 bits"),
    ],
)
def test_what_would_fail_at_the_first_prompt_is_refused_at_the_start(
    name: str, options: dict[str, Any], message: str, quantised: Checkpoint
) -> None:
    if name == "fp8" and has_amx():
        pytest.skip("a processor with AMX")
    plan = make_plan(EngineConfig(str(quantised(name)), prompt="prism", **options))
    with pytest.raises(CheckpointError, match=message):
        GenerateRuntime.engine_options(plan, on_cpu=True)


async def test_what_vllm_does_not_know_is_refused_with_a_remedy(quantised: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "hqq"
    shutil.copytree(quantised("awq"), folder)
    table = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "hqq"}}
    (folder / "config.json").write_text(json.dumps(table))
    with pytest.raises(
        CheckpointError, match=r"vLLM cannot serve it: .*hqq.*; if its weights are the reason \(hqq\), give the"
    ):
        await opened(folder)

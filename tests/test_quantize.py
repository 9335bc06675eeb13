"""`whyrank quantize`: what it writes, that vLLM and whyrank open it and compute what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conftest import KIND_OF
from samples import DOCUMENTS, QUERY
from whyrank import CheckpointError, InvalidRequest, Reranker
from whyrank.__main__ import app
from whyrank.adapters.embed_anything import Dtype
from whyrank.adapters.embed_anything import Reranker as EmbedAnything
from whyrank.checkpoints import make_plan, read_checkpoint
from whyrank.config import EngineConfig
from whyrank.prompting.scoring import score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.quantize import int8_instructions, quantize
from whyrank.runtimes.engine_options import _cpu_options
from whyrank.runtimes.reference import Reference
from whyrank.types import Document

TEXTS = [*DOCUMENTS.values()][:6]
# A value on the border between two steps may go the other way where sums are made in another order, and take later ones with
# it: torch in float64 differs from itself in float32 by 0.008, 0.018 and 0.015 on the three checkpoints.
KERNEL_TOLERANCE = 0.03

Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def quantised(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """quantised(kind) → the int8 checkpoint."""
    parent = tmp_path_factory.mktemp("int8")

    def once(kind: str) -> Path:
        if not (parent / kind).exists():
            quantize(EngineConfig(str(checkpoint(kind))), parent / kind)
        return parent / kind

    return once


def test_only_the_layers_matrices_are_in_int8_each_row_within_half_a_step(
    checkpoint: Checkpoint, quantised: Checkpoint
) -> None:
    before, after = (
        load_file(checkpoint("qwen3") / "model.safetensors"),
        load_file(quantised("qwen3") / "model.safetensors"),
    )
    scales = {name for name in after if name.endswith("_scale")}
    assert after.keys() - scales == before.keys()
    for name, weight in before.items():
        if f"{name}_scale" not in scales:
            assert torch.equal(after[name], weight)
            continue
        step = after[f"{name}_scale"]
        assert after[name].dtype == torch.int8 and step.shape == (len(weight), 1)
        assert (after[name].abs().amax(dim=1) == 127).all()
        assert ((after[name] * step - weight.float()).abs() <= step * 0.5001).all()
    kept = [name for name in before if f"{name}_scale" not in scales]
    assert len(scales) == 7 * len([name for name in kept if name.endswith("input_layernorm.weight")])
    assert all("norm" in name or "embed" in name or "lm_head" in name for name in kept)


def test_everything_beside_the_weights_is_copied(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint("qwen3"), source)
    (source / "1_LogitScore").mkdir()
    (source / "1_LogitScore" / "config.json").write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "pytorch_model.bin").write_bytes(b"the weights again")
    out = tmp_path / "deep" / "out"
    result = CliRunner().invoke(app, ["quantize", str(source), str(out), "--json"])
    assert result.exit_code == 0, result.output
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()} - {
        "pytorch_model.bin"
    }
    for name in files - {"config.json", "model.safetensors"}:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    table, before = (json.loads((folder / "config.json").read_text()) for folder in (out, source))
    assert {key: value for key, value in table.items() if key != "quantization_config"} == before
    checkpoint_read = read_checkpoint(EngineConfig(str(out)))
    assert checkpoint_read.quantization is not None
    assert checkpoint_read.quantization.is_int8 and not checkpoint_read.has_quantized_head
    assert not [*out.parent.glob(".*")]


def test_several_files_stay_several(checkpoint: Checkpoint, quantised: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint("qwen3"), source)
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, source / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    quantize(EngineConfig(str(source)), tmp_path / "out")
    whole = load_file(quantised("qwen3") / "model.safetensors")
    written = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert written.keys() == whole.keys()
    for name, file in written.items():
        assert torch.equal(load_file(tmp_path / "out" / file)[name], whole[name])


def int8_in_torch(model: Any, folder: Path) -> None:
    """Gives the model the weights that the int8 checkpoint stands for, and its layers rounded inputs."""
    tensors = load_file(folder / "model.safetensors")

    def round_tokens(layer: Any, inputs: Any) -> Any:
        step = inputs[0].abs().amax(dim=-1, keepdim=True) / 127
        return ((inputs[0] / step).round() * step,)

    changed = 0
    for name, layer in model.named_modules():
        if f"{name}.weight_scale" in tensors:
            layer.weight.data = (tensors[f"{name}.weight"] * tensors[f"{name}.weight_scale"]).to(layer.weight.dtype)
            layer.register_forward_pre_hook(round_tokens)
            changed += 1
    assert changed == len([name for name in tensors if name.endswith("_scale")])


@pytest.mark.skipif(int8_instructions() is None, reason="a processor without VNNI or AMX")
@pytest.mark.parametrize(
    "prompt", ["prism", "qanchor", "mxbai-v2"]
)  # a head of labels, one that classifies, and biases
async def test_margins_are_those_of_torch_with_the_same_numbers(
    prompt: str, checkpoint: Checkpoint, quantised: Checkpoint
) -> None:
    kind = KIND_OF[prompt]
    options: dict[str, Any] = {"prompt": prompt, "dtype": "float32", "kv_cache_gib": 0.25}
    plan = make_plan(EngineConfig(str(checkpoint(kind)), **options))
    exact, rounded = Reference(plan, "float32"), Reference(plan, "float32")
    int8_in_torch(rounded.model, quantised(kind))
    async with Reranker(str(quantised(kind)), **options) as reranker:
        rows = await reranker.score(QUERY, TEXTS)
    encoded = [row for row in plan.encoder.encode(QUERY, [Document(text) for text in TEXTS], None, "tail")]
    errors, spread = list[float](), list[float]()
    for row, prompt_of_row in zip(rows, encoded, strict=True):
        assert isinstance(prompt_of_row, EncodedDocument) and row.margin is not None
        wanted, unrounded = (
            score_of(reference.read(prompt_of_row.prompts[0].ids), plan.format.score_rule).margin
            for reference in (rounded, exact)
        )
        errors.append(abs(row.margin - wanted))
        spread.append(abs(wanted - unrounded))
    print(f"\n{prompt}: int8 engine against torch {max(errors):.5f}; int8 against float32 {max(spread):.5f}")
    assert max(errors) <= KERNEL_TOLERANCE
    assert max(spread) > max(errors)  # otherwise nothing was in int8


PLAIN = """
import json, sys
from vllm import LLM, SamplingParams
folder, ids, labels = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=512, kv_cache_memory_bytes=1 << 26)
params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=labels)
(output,) = llm.generate([{"prompt_token_ids": ids}], params)
found = output.outputs[0].logprobs[0]
print(json.dumps([found[label].logprob for label in labels]))
"""


@pytest.mark.skipif(int8_instructions() is None, reason="a processor without VNNI or AMX")
def test_plain_vllm_opens_it(quantised: Checkpoint, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = quantised("qwen3")
    plan = make_plan(EngineConfig(str(checkpoint("qwen3")), prompt="prism"))
    (row,) = plan.encoder.encode(QUERY, [Document(TEXTS[0])], None, "tail")
    labels = plan.encoder.labels
    assert isinstance(row, EncodedDocument) and labels is not None
    ids, names = list(row.prompts[0].ids), list(labels.ids)
    for name, value in {
        "VLLM_PLUGINS": "",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", PLAIN, str(folder), json.dumps(ids), json.dumps(names)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    positive, negative = json.loads(ran.stdout.splitlines()[-1])
    rounded = Reference(plan, "float32")
    int8_in_torch(rounded.model, folder)
    wanted = score_of(rounded.read(row.prompts[0].ids), plan.format.score_rule)
    assert positive - negative == pytest.approx(wanted.margin, abs=KERNEL_TOLERANCE)


# What is refused.


def test_other_architectures_are_refused_by_what_they_have(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"linear_attn.*only q, k, v, o, gate, up and down projections"):
        quantize(EngineConfig(str(checkpoint("qwen3_5"))), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"\(XLMRobertaForSequenceClassification\): no decoder layers found"):
        quantize(EngineConfig(str(checkpoint("xlm-roberta"))), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_what_is_quantised_already_or_in_the_way_is_refused(
    checkpoint: Checkpoint, quantised: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError, match=r"quantised already \(compressed-tensors\): give the one that it was made from"
    ):
        quantize(EngineConfig(str(quantised("qwen3"))), tmp_path / "out")
    with pytest.raises(InvalidRequest, match="already exists: give a folder that does not exist"):
        quantize(EngineConfig(str(checkpoint("qwen3"))), tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        quantize(EngineConfig("./nowhere"), tmp_path / "out")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InvalidRequest, match="cannot be written"):
        quantize(EngineConfig(str(checkpoint("qwen3"))), blocked / "out")


def test_weights_that_are_not_safetensors_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint("qwen3"), source)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"not in \.safetensors files: .* save_pretrained"):
        quantize(EngineConfig(str(source)), tmp_path / "out")


def test_int8_as_a_dtype_names_the_command() -> None:
    with pytest.raises(InvalidRequest, match=r"dtype is 'int8': .* `whyrank quantize demo OUT`"):
        EngineConfig("demo", dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"dtype is INT8: .* `whyrank quantize demo OUT`"):
        EmbedAnything.from_pretrained("demo", dtype=Dtype.INT8)


def test_a_processor_that_may_overflow_is_refused(quantised: Checkpoint) -> None:
    plan = make_plan(EngineConfig(str(quantised("qwen3")), prompt="prism"))
    with pytest.raises(CheckpointError, match="neither VNNI nor AMX: give the checkpoint that it was made from"):
        _cpu_options(plan, None)
    bare = replace(plan, checkpoint=replace(plan.checkpoint, quantization=None))
    assert _cpu_options(bare, None)["enforce_eager"]

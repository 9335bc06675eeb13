"""Which dtype `auto` becomes, and that an engine in bfloat16 keeps what is promised of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from samples import DOCUMENTS, QUERY
from whyrank import Document, EngineConfig, Reranker
from whyrank.checkpoints import Plan, make_plan
from whyrank.config import DEMO
from whyrank.dtypes import bfloat16_instructions, choose_dtype, choose_dtype_for_cpu
from whyrank.prompting.scoring import score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.runtimes import start_runtime
from whyrank.runtimes.reference import Reference

AVX = "AVX512-BF16"


@pytest.fixture
def plan(checkpoint: Callable[[str], Path]) -> Callable[..., Plan]:
    """plan(stored_dtype, kind="qwen3", **of EngineConfig)"""

    def of(stored: str | None, kind: str = "qwen3", **options: Any) -> Plan:
        made = make_plan(EngineConfig(str(checkpoint(kind)), prompt="prism", **options))
        return replace(made, checkpoint=replace(made.checkpoint, stored_dtype=stored))

    return of


@pytest.mark.parametrize(
    ("stored", "instructions", "dtype", "reason"),
    [
        ("bfloat16", AVX, "bfloat16", "the checkpoint's own, for which this CPU has AVX512-BF16"),
        ("bfloat16", "AMX-BF16", "bfloat16", "the checkpoint's own, for which this CPU has AMX-BF16"),
        ("bfloat16", None, "float32", "the best on a CPU without AMX-BF16 and AVX512-BF16"),
        ("float32", AVX, "float32", "since the checkpoint is in float32"),
        ("float16", AVX, "float32", "since the checkpoint is in float16"),
        (None, AVX, "float32", "since the checkpoint names no dtype"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_that_is_exact_and_fast(
    plan: Callable[..., Plan], stored: str | None, instructions: str | None, dtype: str, reason: str
) -> None:
    assert choose_dtype_for_cpu(plan(stored), instructions) == (dtype, reason)


@pytest.mark.parametrize("instructions", [AVX, None])
def test_a_hybrid_has_no_choice(plan: Callable[..., Plan], instructions: str | None) -> None:
    assert choose_dtype_for_cpu(plan("float32", "qwen3_5"), instructions).dtype == "bfloat16"


def test_encoders_stay_in_float32(plan: Callable[..., Plan]) -> None:
    assert choose_dtype_for_cpu(replace(plan("bfloat16"), route="encoder"), AVX).dtype == "float32"


@pytest.mark.parametrize("on_cpu", [True, False])
def test_the_user_decides(plan: Callable[..., Plan], on_cpu: bool) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        assert choose_dtype(plan("bfloat16", dtype=dtype), on_cpu) == (dtype, "as --dtype says")
    assert on_cpu or choose_dtype(plan("bfloat16"), on_cpu).dtype == "auto"


def test_the_embedded_model_is_in_float32() -> None:
    made = make_plan(EngineConfig(DEMO))
    assert made.checkpoint.stored_dtype == "float32"
    assert choose_dtype_for_cpu(made, AVX).dtype == "float32"


@pytest.mark.parametrize(
    ("entries", "stored"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": None, "text_config": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"dtype": None}, None),
    ],
)
def test_a_checkpoint_says_its_dtype(
    checkpoint: Callable[[str], Path], tmp_path: Path, entries: dict[str, Any], stored: str | None
) -> None:
    folder = Path(shutil.copytree(checkpoint("qwen3"), tmp_path / "prism-model"))
    table = json.loads((folder / "config.json").read_text())
    del table["dtype"]
    if "text_config" in entries:
        entries = entries | {"text_config": table | entries["text_config"]}
    (folder / "config.json").write_text(json.dumps(table | entries))
    assert make_plan(EngineConfig(str(folder))).checkpoint.stored_dtype == stored


def test_instructions_are_the_processors() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert (bfloat16_instructions() == AVX) == ("avx512_bf16" in flags and "amx_bf16" not in flags)


# An engine in bfloat16.


async def test_an_engine_in_bfloat16_reads_labels_in_float32(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the user's own list of plugins does not name ours, which the engine's process needs."""
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    config = EngineConfig(str(checkpoint("qwen3")), prompt="prism", dtype="bfloat16", kv_cache_gib=0.25)
    plan = make_plan(config)
    texts = [text for name, text in DOCUMENTS.items() if name != "long"]
    runtime = await start_runtime(plan)
    try:
        facts = runtime.facts()
        rows = await Reranker.from_runtime(runtime, plan.encoder, config).score(QUERY, texts)
    finally:
        await runtime.aclose()
    assert (facts["dtype"], facts["label_dtype"], facts["norms"]) == ("bfloat16", "float32", "C++")
    margins = [row.margin for row in rows]
    assert margins == pytest.approx(in_float32(config, texts), abs=0.05)
    # From logits in bfloat16 these would be whole numbers: so small are their steps at the values of this model.
    steps = torch.tensor(margins) * 8192
    assert (steps - steps.round()).abs().mean() > 0.1


def in_float32(config: EngineConfig, texts: list[str]) -> list[float]:
    """The margins that plain transformers gives."""
    plan = make_plan(replace(config, dtype="float32"))
    reference, rule = Reference(plan, "float32"), plan.format.score_rule
    rows = plan.encoder.encode(QUERY, [*map(Document, texts)], None, "tail")
    return [
        score_of(reference.read(row.prompts[0].ids), rule).margin for row in rows if isinstance(row, EncodedDocument)
    ]

"""On a GPU: every route and kind of model, held against plain transformers on tiny checkpoints.

`pytest -m gpu` runs these alone; without a GPU they are skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from samples import DOCUMENTS, QUERY
from whyrank import EngineConfig, Reranker
from whyrank.doctor import examine
from whyrank.engine_install import detect_device
from whyrank.process import is_cpu_build

pytestmark = pytest.mark.gpu

FAMILIES = [
    pytest.param("prism", "qwen3", None, id="generate"),
    pytest.param("prism", "qwen3_5", None, id="generate-hybrid"),
    pytest.param("bge-v2-gemma", "gemma", None, id="generate-raw-logit"),
    pytest.param("qwen3-reranker", "qwen3", "classify", id="classify-labels"),
    pytest.param("prism", "qwen3_5", "classify", id="classify-hybrid"),
    pytest.param("qanchor", "qwen3-seq-cls", None, id="classify-own-head"),
    pytest.param("multi-hop", "deberta", None, id="encoder-deberta"),
    pytest.param("bge-reranker", "xlm-roberta", None, id="encoder-xlm-roberta"),
]


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    if is_cpu_build():
        pytest.skip("the engine that is installed is the one for CPUs (scripts/setup --cuda installs the other)")
    if detect_device() == "cpu":
        pytest.skip("no GPU: nvidia-smi does not answer")


@pytest.mark.timeout(1200)  # the first engine compiles for minutes
@pytest.mark.parametrize(("prompt", "kind", "route"), FAMILIES)
async def test_scores_are_those_of_transformers(
    prompt: str, kind: str, route: str | None, checkpoint: Callable[[str], Path]
) -> None:
    config = EngineConfig(str(checkpoint(kind)), prompt=prompt, route=route, kv_cache_gib=2)  # type: ignore[arg-type]
    report = await examine(config)
    # Not the label mass: random weights want no label.
    findings = {finding.name: finding for finding in report.findings}
    print(*(f"{finding.name}: {finding.value}" for finding in report.findings), sep="\n")
    assert findings["device"].value.startswith("cuda")
    assert findings["ids"].good and findings["parity"].good and findings["cache"].good is not False


@pytest.mark.timeout(1200)
async def test_evidence_is_written_within_its_grammar(checkpoint: Callable[[str], Path]) -> None:
    async with Reranker(str(checkpoint("qwen3")), prompt="prism", kv_cache_gib=2) as reranker:
        ranking = await reranker.rerank(
            QUERY, list(DOCUMENTS.values()), mode="evidence", evidence_top_n=2, evidence_min_score=0.0
        )
    written = [row.evidence for row in ranking.results if row.evidence is not None]
    assert len(written) == 2 and all(evidence.finish in ("complete", "budget") for evidence in written)

"""`--prompt chat` on engines: labels are chosen by what the model answers, scores are those of plain transformers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
from tokenizers import Tokenizer

from chat_templates import LOOP
from samples import QUERY
from whyrank import Reranker
from whyrank.checkpoints import Plan, make_claims_plan, make_plan
from whyrank.config import EngineConfig
from whyrank.label_choice import PAIRS, choice_text, choose_labels
from whyrank.prompting.scoring import score_of
from whyrank.prompting.tokens import EncodedDocument, PromptEncoder
from whyrank.runtimes import Runtime, start_runtime
from whyrank.runtimes.reference import Reference
from whyrank.types import Document
from whyrank.verifier import start_verifier

REAL = {"smollm2": "WHYRANK_SMOLLM2", "qwen2.5": "WHYRANK_QWEN25"}


@pytest.fixture(scope="session")
def chat_model(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with ChatML's template."""
    folder = tmp_path_factory.mktemp("chat") / "tiny-chat"
    shutil.copytree(checkpoint("qwen3"), folder)
    (folder / "chat_template.jinja").write_text(LOOP)
    return folder


async def opened(folder: Path, prompt: str = "chat") -> tuple[Runtime, Plan]:
    plan = make_plan(EngineConfig(str(folder), prompt=prompt, kv_cache_gib=0.5))
    return await choose_labels(await start_runtime(plan), plan)


async def difference(runtime: Runtime, plan: Plan, texts: list[str]) -> tuple[float, list[float]]:
    """Between engine and transformers, the largest of the margins; and the label masses."""
    rows = await Reranker.from_runtime(runtime, plan.encoder, plan.config).score(QUERY, texts)
    reference, worst = Reference.beside(plan, runtime.facts()), 0.0
    for row in rows:
        (encoded,) = plan.encoder.encode(QUERY, [row.document], None, "tail")
        assert isinstance(encoded, EncodedDocument) and row.margin is not None
        wanted = score_of(reference.read(encoded.prompts[0].ids), plan.format.score_rule)
        worst = max(worst, abs(wanted.margin - row.margin))
    return worst, [row.label_mass or 0.0 for row in rows]


TEXTS = [
    "Water boils at 100 °C at sea level.",
    "Bread rises because yeast turns sugar into gas.",
    "海拔为零时，水的沸点是摄氏一百度。",
]


async def test_the_labels_are_those_that_the_model_prefers(chat_model: Path) -> None:
    """Random weights prefer some, too; plain transformers say which."""
    runtime, plan = await opened(chat_model)
    try:
        reference = Reference.beside(plan, runtime.facts())
        masses = {fmt.fingerprint: label_mass(reference, plan.encoder.with_labels(fmt)) for fmt in plan.choices}
        assert len(masses) > 1 and max(masses, key=lambda one: masses[one]) == plan.format.fingerprint
        assert plan.label_masses == pytest.approx(list(masses.values()), rel=1e-3)
        assert (choice_text(plan) or "").count("/") == len(masses) + 1
        worst, _ = await difference(runtime, plan, TEXTS)
        assert worst <= 1e-4
    finally:
        await runtime.aclose()


async def test_the_score_of_grades_is_the_expected_grade(chat_model: Path) -> None:
    runtime, plan = await opened(chat_model, "chat-grades")
    try:
        rows = await Reranker.from_runtime(runtime, plan.encoder, plan.config).score(QUERY, TEXTS)
        reference = Reference.beside(plan, runtime.facts())
        tokenizer = Tokenizer.from_file(str(chat_model / "tokenizer.json"))
        for row in rows:
            all_probabilities = next_token(reference, plan.encoder, row.document)
            probabilities = [all_probabilities[tokenizer.token_to_id(grade)] for grade in ("3", "2", "1", "0")]
            expected = sum(p * value for p, value in zip(probabilities, (1, 2 / 3, 1 / 3, 0), strict=True))
            assert row.score == pytest.approx(expected / sum(probabilities), abs=1e-5)
            assert row.label_mass == pytest.approx(sum(probabilities), rel=1e-3)
        worst, _ = await difference(runtime, plan, TEXTS)
        assert worst <= 1e-4
    finally:
        await runtime.aclose()


def next_token(reference: Reference, encoder: PromptEncoder, document: Document) -> list[float]:
    import torch

    (row,) = encoder.encode(QUERY, [document], None, "tail")
    assert isinstance(row, EncodedDocument)
    with torch.inference_mode():
        logits = reference.model(input_ids=torch.tensor([row.prompts[0].ids])).logits[0, -1]
    probabilities: list[float] = logits.softmax(-1).tolist()
    return probabilities


async def test_a_verifier_reads_the_labels_that_it_prefers(chat_model: Path) -> None:
    plan = make_claims_plan(f"{chat_model},prompt=chat,kv_cache_gib=0.5", {})
    verifier = await start_verifier(plan)
    try:
        _, preferred = await choose_labels(verifier.runtime, plan)
        assert verifier.encoder.labels == preferred.encoder.labels != plan.encoder.labels
    finally:
        await verifier.runtime.aclose()


def label_mass(reference: Reference, encoder: PromptEncoder) -> float:
    import torch

    assert encoder.labels is not None and encoder.labels.negative is not None
    both, masses = [encoder.labels.positive, encoder.labels.negative], []
    for query, text in PAIRS:
        (row,) = encoder.encode(query, [Document(text)], None, "tail")
        assert isinstance(row, EncodedDocument)
        with torch.inference_mode():
            logits = reference.model(input_ids=torch.tensor([row.prompts[0].ids])).logits[0, -1]
        masses.append(float(logits.softmax(-1)[both].sum()))
    return fmean(masses)


def real(name: str) -> Path:
    folder = os.environ.get(REAL[name])
    if not folder:
        pytest.skip(f"a real chat model: scripts/chat_model.py {name} FOLDER, then {REAL[name]}=FOLDER")
    return Path(folder)


@pytest.mark.parametrize("name", REAL)
async def test_a_real_chat_model_grades(name: str) -> None:
    """With what label mass is the model's affair: SmolLM2 puts a sixth of its probability on the grades."""
    runtime, plan = await opened(real(name), "chat-grades")
    try:
        assert plan.format.labels is not None and plan.format.labels.between == ["2", "1"]
        worst, masses = await difference(runtime, plan, TEXTS)
        assert worst <= (1e-4 if runtime.facts()["dtype"] == "float32" else 0.1) and min(masses) >= 0.1
    finally:
        await runtime.aclose()


@pytest.mark.parametrize("name", REAL)
async def test_a_real_chat_model_scores_and_writes(name: str) -> None:
    runtime, plan = await opened(real(name))
    try:
        assert plan.format.labels is not None and plan.format.labels.positive in ("yes", "Yes")
        worst, masses = await difference(runtime, plan, TEXTS)
        assert worst <= (1e-4 if runtime.facts()["dtype"] == "float32" else 0.1) and min(masses) >= 0.3
        reranker = Reranker.from_runtime(runtime, plan.encoder, plan.config)
        budgets = {"max_contribution_tokens": 12, "max_evidence_tokens": 12}
        ranking = await reranker.rerank(QUERY, TEXTS[:1], mode="evidence", evidence_min_score=0, **budgets)
        evidence = ranking.results[0].evidence
        assert evidence is not None and evidence.contribution and evidence.evidence
        assert "<" not in evidence.contribution + evidence.evidence
    finally:
        await runtime.aclose()

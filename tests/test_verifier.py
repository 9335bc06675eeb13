"""A model judges what words leave open: what it is asked, what comes of its answers, and what failing costs."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conftest import Serve, Served
from inprocess import FakeRuntime, InProcess, prism_plan
from whyrank import AsyncClient, EngineConfig, Reranker
from whyrank.calibration import Calibration, write_calibration
from whyrank.checkpoints import Plan, make_plan, make_verifier_plan
from whyrank.errors import CheckpointError, EngineDead, InvalidRequest
from whyrank.events import EvidenceDone, Scored
from whyrank.pipeline.verifier import Verifier
from whyrank.prompting.formats import Instruction
from whyrank.prompting.tokens import PromptEncoder
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.runtimes.base import Generation
from whyrank.types import CheckedSentence, Document, Evidence, Grounding, RankedDocument, Usage, Verification
from whyrank.verifier import start_verifier, threshold_of
from whyrank.wire.responses import ranking_from_dict, ranking_to_dict

QUERY = "At what temperature does water boil?"
DOCUMENT = "Water boils at 100 °C at sea level. The kettle is made of steel."
REWORDED = "Heating turns the liquid into steam."  # too far from the document's wording to be judged by it
EVIDENCE = f"Water boils at 100 °C at sea level. Water boils at 90 °C at sea level. {REWORDED}"
CONTRIBUTION = "Explains evaporation."
OPTIONS: dict[str, Any] = {"mode": "evidence", "evidence_min_score": 0.0, "verify": "model"}


@pytest.fixture(scope="module")
def plan(checkpoint: Callable[[str], Path]) -> Plan:
    return prism_plan(checkpoint("qwen3"))


@pytest.fixture(scope="module")
def claims_plan(checkpoint: Callable[[str], Path]) -> Plan:
    return make_plan(EngineConfig(str(checkpoint("qwen2")), prompt="claims-chatml"))


class Both:
    """A reranker that writes EVIDENCE of every document, over a fake engine, and a verifier over another."""

    def __init__(self, plan: Plan, claims_plan: Plan, threshold: float = 0.5) -> None:
        self.runtime, self.judge = FakeRuntime(plan.encoder), FakeRuntime(claims_plan.encoder)
        says = f"{CONTRIBUTION}</contribution>\n<evidence>{EVIDENCE}</evidence>"
        self.runtime.says = plan.encoder.encode_frame(says)
        self.judge.says_labels = lambda ids: (-0.1, -2.3)
        self.verifier = Verifier("judge", self.judge, claims_plan.encoder, threshold)
        self.decode = claims_plan.encoder.decode
        self.reranker = Reranker.from_runtime(self.runtime, plan.encoder, EngineConfig("tiny"), verifier=self.verifier)

    async def row(self, **options: Any) -> RankedDocument:
        (row,) = await self.reranker.score(QUERY, [DOCUMENT], **OPTIONS | options)
        return row


@pytest.fixture
def both(plan: Plan, claims_plan: Plan) -> Both:
    return Both(plan, claims_plan)


def grounding_of(row: RankedDocument) -> Grounding:
    assert row.evidence is not None and row.evidence.grounding is not None
    return row.evidence.grounding


async def test_only_what_words_leave_open_is_asked_and_no_verdict_changes(both: Both) -> None:
    grounding = grounding_of(await both.row())
    assert [one.verdict for one in grounding.sentences] == ["supported", "altered", "unverified"]
    assert [one.model_score for one in grounding.sentences] == [None, None, pytest.approx(0.9002, abs=1e-3)]
    prompts = [both.decode(ids) for ids in both.judge.prompts]
    assert len(prompts) == 2 and REWORDED in prompts[0] and CONTRIBUTION in prompts[1]
    assert all(f"Document: {DOCUMENT}" in text for text in prompts)
    plain = grounding_of(await both.row(verify="words"))
    assert (plain.supported, plain.altered, plain.unverified) == (
        grounding.supported,
        grounding.altered,
        grounding.unverified,
    )
    assert plain.verification is None and len(both.judge.prompts) == 2


async def test_variants_are_judged_in_the_same_batch(both: Both, plan: Plan) -> None:
    other = plan.encoder.encode_frame(f"{CONTRIBUTION}</contribution>\n<evidence>{DOCUMENT} {REWORDED}</evidence>")
    both.runtime.others = (Generation(other, "stop"),)
    row = await both.row(evidence_samples=2, temperature=0.4)
    assert row.evidence is not None
    (variant,) = row.evidence.variants
    assert variant.grounding is not None and variant.grounding.verification is not None
    assert [one.model_score for one in variant.grounding.sentences] == [None, None, pytest.approx(0.9002, abs=1e-3)]
    assert variant.contribution_grounding is not None
    assert grounding_of(row).sentences[2].model_score == pytest.approx(0.9002, abs=1e-3)


async def test_the_result_says_who_judged_from_which_score_up_and_how_much_is_backed(both: Both) -> None:
    row = await both.row()
    grounding = grounding_of(row)
    assert grounding.verification is not None
    assert (grounding.verification.model, grounding.verification.threshold) == ("judge", 0.5)
    assert grounding.verification.prompt.startswith("claims-chatml@") and grounding.verification.error is None
    assert grounding.verification.backed == pytest.approx(grounding.unverified)
    assert row.evidence is not None and row.evidence.contribution_grounding is not None
    assert row.evidence.contribution_grounding.sentences[0].model_score == pytest.approx(0.9002, abs=1e-3)


async def test_a_score_below_the_threshold_backs_nothing(plan: Plan, claims_plan: Plan) -> None:
    grounding = grounding_of(await Both(plan, claims_plan, threshold=0.95).row())
    assert grounding.sentences[2].model_score == pytest.approx(0.9002, abs=1e-3)
    assert not grounding.is_backed(grounding.sentences[2])
    assert grounding.verification is not None and grounding.verification.backed == 0


async def test_the_model_itself_judges_where_it_may_be_instructed(plan: Plan) -> None:
    free = plan.format.model_copy(update={"instruction": Instruction(default="Find it.")})
    encoder = PromptEncoder(free, plan.encoder._tokenizer, plan.encoder.max_length)
    runtime = FakeRuntime(encoder)
    runtime.says = encoder.encode_frame(f"{CONTRIBUTION}</contribution>\n<evidence>{EVIDENCE}</evidence>")
    reranker = Reranker.from_runtime(runtime, encoder, EngineConfig("tiny"))
    (row,) = await reranker.score(QUERY, [DOCUMENT], **OPTIONS)
    verification = grounding_of(row).verification
    assert verification is not None and verification.model == "tiny" and "+" in verification.prompt
    prompt = encoder.decode(runtime.prompts[1])
    assert "Judge whether the Document states or directly implies the Query" in prompt and REWORDED in prompt


async def test_a_model_that_knows_relevance_alone_is_not_asked(plan: Plan) -> None:
    reranker = Reranker.from_runtime(FakeRuntime(plan.encoder), plan.encoder, EngineConfig("tiny"))
    with pytest.raises(InvalidRequest, match=r"prompt 'prism' can judge only relevance.*--verifier MODEL"):
        await reranker.rerank(QUERY, [DOCUMENT], **OPTIONS)
    assert (await reranker.rerank(QUERY, [DOCUMENT], verify="model")).results[0].score is not None  # nothing is written


async def test_what_fails_costs_the_verification_of_its_document_alone(both: Both) -> None:
    other = DOCUMENT.replace("steel", "copper")
    await both.reranker.rerank(QUERY, [DOCUMENT, other], **OPTIONS)
    both.judge.broken = {
        ids for ids in both.judge.prompts if "copper" in both.decode(ids) and REWORDED in both.decode(ids)
    }
    assert len(both.judge.broken) == 1
    first, second = await both.reranker.score(QUERY, [DOCUMENT, other], **OPTIONS)
    sound, failed = grounding_of(first), grounding_of(second)
    assert sound.verification is not None and sound.verification.error is None
    assert failed.verification is not None and failed.verification.error == "judge: the engine gave up on it"
    assert failed.sentences[2].model_score is None and failed.unverified == sound.unverified
    assert second.evidence is not None and second.evidence.finish == "complete"
    checked = second.evidence.contribution_grounding
    assert checked is not None and checked.verification is not None and checked.verification.error is None


async def test_a_dead_verifier_costs_no_evidence(both: Both) -> None:
    both.judge.failure = EngineDead("the engine process has died")
    row = await both.row()
    verification = grounding_of(row).verification
    assert verification is not None and verification.error == "judge: the engine process has died"
    assert row.evidence is not None and row.evidence.evidence == EVIDENCE and row.evidence.finish == "complete"


async def test_a_deadline_ends_a_verification(both: Both) -> None:
    both.judge.open.clear()
    async with asyncio.timeout(10):
        row = await both.row(deadline_ms=400)
    verification = grounding_of(row).verification
    assert verification is not None and verification.error is not None and "the deadline came" in verification.error
    assert grounding_of(row).supported > 0 and both.judge.left == 1


async def test_a_caller_who_leaves_frees_the_verifier(both: Both) -> None:
    both.judge.open.clear()
    task = asyncio.create_task(both.row())
    await asyncio.wait_for(both.judge.reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert both.judge.left == 1


async def test_a_stream_tells_evidence_when_it_is_verified(both: Both) -> None:
    events = [event async for event in both.reranker.stream(QUERY, [DOCUMENT], **OPTIONS)]
    (done,) = [event.row for event in events if isinstance(event, EvidenceDone)]
    assert isinstance(events[0], Scored) and grounding_of(done).verification is not None


async def test_tenants_share_nothing_with_the_verifier_either(both: Both) -> None:
    await both.row(cache_salt="mine")
    assert both.judge.salts == ["mine"]


async def test_a_claim_stands_against_the_whole_of_a_long_document(both: Both) -> None:
    """In windows, of which the best counts; what of the document was cut when it was scored does not matter."""
    long = DOCUMENT + " The shop sells cups of tea and plates of porcelain, too." * 900 + " Steam comes off."
    both.judge.says_labels = lambda ids: (-0.1, -2.3) if "Steam comes off" in both.decode(ids) else (-2.3, -0.1)
    (row,) = await both.reranker.score(QUERY, [long], max_tokens_per_doc=50, **OPTIONS)
    assert len(both.judge.prompts) >= 4
    assert grounding_of(row).sentences[-1].model_score == pytest.approx(0.9002, abs=1e-3)


# Over HTTP.


async def test_it_travels(plan: Plan, claims_plan: Plan) -> None:
    both, inside = Both(plan, claims_plan), InProcess(plan)
    inside.service.reranker = inside.service._uncalibrated = both.reranker
    async with inside.client() as http:
        body = {"query": QUERY, "documents": [DOCUMENT], **OPTIONS}
        row = (await http.post("/v1/rerank", json=body)).json()["results"][0]
        assert row["grounding"]["sentences"][2]["model_score"] == pytest.approx(0.9002, abs=1e-3)
        assert row["grounding"]["verification"]["model"] == "judge"
        refused = await http.post("/v1/rerank", json=body | {"verify": "twice"})
        assert refused.status_code == 400 and "should be 'words' or 'model'" in refused.text
    async with AsyncClient("http://test", transport=http._transport) as client:  # type: ignore[arg-type]
        assert (await client.score(QUERY, [DOCUMENT], **OPTIONS))[0] == replace(await both.row(), calibrated_score=None)


def test_an_older_server_says_nothing_of_it_and_is_understood() -> None:
    grounding = Grounding(0.0, sentences=(CheckedSentence(0, 1, "unverified", "wording"),), unverified=1.0)
    row = RankedDocument(0, Document("d"), 1, 0.9, 2.0, evidence=Evidence("", "e", "complete", 1, grounding))
    body = json.loads(json.dumps(ranking_to_dict(Ranking((row,), usage=_NONE, model="m", prompt="p"))))
    (sent,) = body["results"]
    del (
        sent["contribution_grounding"],
        sent["grounding"]["verification"],
        sent["grounding"]["sentences"][0]["model_score"],
    )
    assert ranking_from_dict(body, [Document("d")]).results == (row,)


_NONE = Usage()


# The second checkpoint.


def test_a_verifier_must_be_able_to_judge_claims(plan: Plan, checkpoint: Callable[[str], Path]) -> None:
    def planned(name: str, served: Plan = plan) -> Plan | None:
        return make_verifier_plan(replace(served, config=replace(served.config, verifier=name)))

    folder = checkpoint("qwen3")
    with pytest.raises(CheckpointError, match=r"prompt 'prism' can judge only relevance.* claims-chatml, "):
        planned(f"{folder},prompt=prism")
    judge = planned(f"{folder},prompt=qwen3-reranker,max_length=500")
    assert judge is not None and judge.encoder.max_length == 500
    with pytest.raises(InvalidRequest, match="'promt=x' is not an engine option"):
        planned(f"{folder},promt=x")
    scores_only = make_plan(EngineConfig(str(folder), prompt="qwen3-reranker"))
    with pytest.raises(CheckpointError, match="writes no evidence for it to judge"):
        planned(str(folder), scores_only)
    assert make_verifier_plan(plan) is None


def test_a_model_with_encoder_and_decoder_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("roberta"), tmp_path / "MiniCheck-Flan-T5-Large")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    with pytest.raises(CheckpointError, match="is an encoder-decoder model like T5, which whyrank cannot run"):
        make_plan(EngineConfig(str(folder), prompt="minicheck-roberta"))


def test_the_threshold_is_the_calibrations(claims_plan: Plan, tmp_path: Path) -> None:
    assert threshold_of(claims_plan) == 0.5
    path = tmp_path / "calibration.json"
    prompt = claims_plan.format.fingerprint
    write_calibration(Calibration("temperature", claims_plan.config.model, prompt, threshold=2.0), path)
    calibrated = replace(claims_plan, config=replace(claims_plan.config, calibration=str(path)))
    assert threshold_of(calibrated) == pytest.approx(0.8808, abs=1e-4)
    write_calibration(Calibration("temperature", claims_plan.config.model, f"{prompt}+other", threshold=2.0), path)
    with pytest.raises(InvalidRequest, match="they differ in the instruction"):
        threshold_of(calibrated)


@pytest.mark.parametrize(
    ("kind", "prompt"), [("roberta", "minicheck-roberta"), ("deberta-claims", "minicheck-deberta")]
)
async def test_scores_of_two_classes_are_their_softmax(
    kind: str, prompt: str, checkpoint: Callable[[str], Path]
) -> None:
    folder = checkpoint(kind)
    verifier = await start_verifier(make_plan(EngineConfig(str(folder), prompt=prompt)))
    try:
        reranker = Reranker.from_runtime(verifier.runtime, verifier.encoder, EngineConfig(str(folder)))
        rows = await reranker.score(REWORDED, [DOCUMENT, "Tea is old.", ""])
    finally:
        await verifier.runtime.aclose()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    for row in rows:
        inputs = tokenizer(tokenizer.sep_token.join([row.document.text, REWORDED]), return_tensors="pt")
        with torch.inference_mode():
            expected = model(inputs["input_ids"]).logits.softmax(-1)[0, 1].item()
        assert row.score == pytest.approx(expected, abs=1e-5) and row.label_mass == pytest.approx(1)
    assert len({row.score for row in rows}) == 3


async def test_on_real_engines_a_sentence_has_the_score_that_it_has_alone(serve: Serve) -> None:
    writes: Served = await serve("prism")
    judges: Served = await serve("claims-chatml")
    verifier = Verifier("judge", judges.runtime, judges.plan.encoder)
    reranker = Reranker.from_runtime(writes.runtime, writes.plan.encoder, writes.plan.config, verifier=verifier)
    documents = [DOCUMENT, "Tea is old. Cups are not."]
    rows = await reranker.score(QUERY, documents, max_evidence_tokens=40, evidence_style="rewrite", **OPTIONS)
    judged = 0
    for row in rows:
        assert row.evidence is not None
        parts = (
            (row.evidence.evidence, grounding_of(row)),
            (row.evidence.contribution, row.evidence.contribution_grounding),
        )
        for text, grounding in parts:
            assert grounding is not None and grounding.verification is not None and grounding.verification.error is None
            for sentence in grounding.sentences:
                assert (sentence.model_score is None) == (sentence.verdict != "unverified")
                if sentence.model_score is not None:
                    claim = text[sentence.start : sentence.end]
                    (alone,) = await judges.reranker.score(claim, [row.document], truncation="windows")
                    assert sentence.model_score == pytest.approx(alone.score, abs=1e-5)
                    judged += 1
    assert judged >= 2


def test_a_verified_sentence_is_packed_under_its_own_mark() -> None:
    text = "Water boils. Steam rises. Tea is old."
    sentences = (
        CheckedSentence(0, 12, "supported"),
        CheckedSentence(13, 25, "unverified", "wording", model_score=0.9),
        CheckedSentence(26, 37, "unverified", "wording", model_score=0.2),
    )
    grounding = Grounding(0.3, sentences=sentences, unverified=0.7, verification=Verification("m", "p", 0.5, 0.3))
    row = RankedDocument(0, Document("d"), 1, 0.9, 2.0, evidence=Evidence("", text, "complete", 1, grounding))

    def packed(tokens: int) -> str:
        return Ranking((row,), _NONE, "m", "p").pack(tokens, lambda text: len(text.split())).text

    assert packed(99) == "[1] (0)\nWater boils. Steam rises. (model-checked) Tea is old. (unverified)"
    assert packed(8) == "[1] (0)\nWater boils. Steam rises. (model-checked)"
    assert packed(5) == "[1] (0)\nWater boils."


def test_options_are_checked() -> None:
    with pytest.raises(InvalidRequest, match="verify is 'twice': choose from words, model"):
        RerankRequest.of("q", ["d"], verify="twice")  # type: ignore[arg-type]

"""What the doctor reports of healthy engines and of unhealthy ones, which a wrapper makes by changing their label reads."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import KIND_OF, Serve, Served
from samples import QUERY
from vocabularies import load
from whyrank.checkpoints import make_plan
from whyrank.config import EngineConfig
from whyrank.doctor import PLAIN, Report, cache_finding, examine_running, ids_finding, margin_tolerance, read_pairs
from whyrank.errors import DataError
from whyrank.prompting.formats import builtin_formats
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Bounds, EncodedDocument, Ids, PromptEncoder
from whyrank.request import RerankRequest
from whyrank.runtimes import Runtime
from whyrank.runtimes.base import Answer
from whyrank.runtimes.reference import Reference
from whyrank.types import Document, DocumentError, TruncationPolicy, Usage

Change = Callable[[int, LabelRead], LabelRead]


class Changed:
    """A runtime whose label reads are changed on their way. The engine belongs to the whole session and is not stopped."""

    def __init__(self, inner: Runtime, change: Change) -> None:
        self.inner, self.change = inner, change
        self.warm_prefix, self.facts = inner.warm_prefix, inner.facts

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        async for answers in self.inner.read(prompts, priorities, salt):
            yield [
                (place, self.change(place, read) if isinstance(read, LabelRead) else read) for place, read in answers
            ]

    async def aclose(self) -> None: ...


def one_off_by(shift: float) -> Change:
    return lambda place, read: replace(read, positive=read.positive + shift) if place == 3 else read


async def report_on(served: Served, change: Change) -> Report:
    return await examine_running(Changed(served.runtime, change), served.plan)


def judged(report: Report) -> dict[str, bool | None]:
    return {finding.name: finding.good for finding in report.findings}


KINDS = pytest.mark.parametrize(
    ("family", "shift"),
    [
        pytest.param(("multi-hop",), 1e-3, id="encoder"),
        pytest.param(("prism",), 1e-2, id="generate"),
        pytest.param(("qanchor",), 1e-3, id="classify"),
        pytest.param(("prism", "qwen3_5"), 0.2, id="bf16"),
    ],
)


@KINDS
async def test_one_margin_that_is_off_is_found(family: tuple[str, ...], shift: float, serve: Serve) -> None:
    served = await serve(*family)
    for by in (shift, -shift):
        report = await report_on(served, one_off_by(by))
        assert judged(report)["parity"] is False and not report.trusted
        assert report.verdict.startswith("do not trust these scores: ")
        assert "parity: against transformers on 11 pairs: score within" in report.verdict


@KINDS
async def test_an_engine_that_is_well_has_parity(family: tuple[str, ...], shift: float, serve: Serve) -> None:
    report = await report_on(await serve(*family), lambda _, read: read)
    assert judged(report)["parity"] is True and "parity" not in report.verdict
    if family == ("multi-hop",):  # with random weights, only models without labels pass all checks
        assert report.verdict == "can be trusted as served"


def test_the_tolerance_of_16_bits_follows_the_engines_own_noise() -> None:
    assert [margin_tolerance(noise) for noise in (0.0, 0.001, 0.02, 1.0)] == [0.05, 0.05, 0.12, 0.5]


async def test_an_engine_with_much_noise_may_be_further_away(serve: Serve) -> None:
    """In company its margins are off by 0.1, more than is allowed of one that agrees with itself; alone they are not."""
    served = await serve("prism", "qwen3_5")
    report = await report_on(served, lambda place, read: replace(read, positive=read.positive + 0.1 * bool(place)))
    (parity,) = (finding for finding in report.findings if finding.name == "parity")
    assert parity.good and "(0.5 allowed; from batch to batch the engine itself differs by" in parity.value


async def test_a_pair_without_a_score_is_told(serve: Serve) -> None:
    report = await report_on(await serve("multi-hop"), one_off_by(math.nan))
    assert report.verdict == (
        "do not trust these scores: parity: 1 of 11 pairs failed: "
        "the model answered nan: its weights or dtype do not fit"
    )


async def test_a_cache_that_never_hits_is_in_the_verdict(serve: Serve) -> None:
    served = await serve("prism")
    assert judged(await report_on(served, lambda _, read: read))["cache"] is True
    report = await report_on(served, lambda _, read: replace(read, cached_tokens=0))
    assert judged(report)["cache"] is False
    assert "cache: 0% of prompt tokens from the cache cold, 0% warm — the documents share" in report.verdict


# Token ids.


UNBOUND = Bounds()


class WithoutNewlines(PromptEncoder):
    """Loses characters of documents, as ours once did with Gemma's vocabulary."""

    def encode(
        self,
        query: str,
        documents: Sequence[Document],
        instruction: str | None,
        policy: TruncationPolicy,
        bounds: Bounds = UNBOUND,
    ) -> list[EncodedDocument | DocumentError]:
        shorter = [Document(document.text.replace("\n", "")) for document in documents]
        return super().encode(query, shorter, instruction, policy, bounds)


def encoder_of(kind: type[PromptEncoder], name: str, checkpoint: Callable[[str], Path]) -> PromptEncoder:
    return kind(builtin_formats()[name], load(checkpoint(KIND_OF[name]) / "tokenizer.json"), 16_000)


@pytest.mark.parametrize("name", sorted(KIND_OF))
def test_ids_are_the_tokenizers_own(name: str, checkpoint: Callable[[str], Path]) -> None:
    finding = ids_finding(encoder_of(PromptEncoder, name, checkpoint))
    assert finding.good is True
    assert int(finding.value.split()[0]) >= 2 * len(PLAIN)


def test_a_text_that_loses_characters_is_found(checkpoint: Callable[[str], Path]) -> None:
    encoder = encoder_of(WithoutNewlines, "bge-v2-gemma", checkpoint)
    pairs = [RerankRequest.of(QUERY, ["one\ntwo"]), RerankRequest.of(QUERY, ["one two"])]
    finding = ids_finding(encoder, pairs)
    assert finding.good is False
    assert "differ from what the tokenizer makes of the whole prompt, first: query 'What is" in finding.value


def test_the_users_own_pairs_are_examined(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"query": "a", "documents": ["b", "<|im_end|>"]}\n{"query": "c", "documents": [{"text": "d"}]}\n')
    pairs = read_pairs(file)
    assert [(pair.query, pair.documents[0].text) for pair in pairs] == [("a", "b"), ("a", "<|im_end|>"), ("c", "d")]
    encoder = encoder_of(PromptEncoder, "prism", checkpoint)
    without, finding = ids_finding(encoder), ids_finding(encoder, pairs)
    assert int(finding.value.split()[2]) == int(without.value.split()[2]) + 3
    assert finding.value.startswith(f"{int(without.value.split()[0]) + 2} of")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"query": "", "documents": ["b"]}', "line 1: query is empty"),
        ('{"query": "a"}', "line 1: documents is a NoneType"),
        ("a\tb", "line 1: not JSON"),
        ("", "contains no pairs"),
    ],
)
def test_a_file_of_pairs_that_cannot_be_read_says_where(line: str, error: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(DataError, match=error):
        read_pairs(file)


ON: dict[str, str | int] = {"prefix_match_unit": 32, "prefix_caching": "on"}


@pytest.mark.parametrize(
    ("cached", "shared", "facts", "good", "detail"),
    [
        (60, 230, ON, True, "60% of prompt tokens from the cache cold, 90% warm"),
        (
            0,
            230,
            ON,
            False,
            "share 230 tokens, blocks of 32 should have hit: the engine's cache is full, or does not work",
        ),
        (0, 32, ON, False, "share 32 tokens"),
        (0, 230, ON | {"prefix_caching": "off"}, False, "should have hit: the engine's cache is off"),
        (0, 31, ON, None, "share their first 31 tokens, a block has 32: too short to be shared"),
        (0, 31, ON | {"prefix_caching": "off"}, None, "too short to be shared"),
        (0, 230, {"prefix_caching": "off (an encoder has none)"}, None, "this route has no prefix cache"),
    ],
)
def test_hits_are_missed_where_they_were_due(
    cached: int, shared: int, facts: dict[str, str | int], good: bool | None, detail: str
) -> None:
    finding = cache_finding(Usage(100, cached), Usage(100, 90), shared, facts)
    assert finding.name == "cache" and finding.good is good and detail in finding.value


# The reference itself. On a GPU, engines compute in bf16 and the head in fp32; here this is forced without a GPU.


def half(checkpoint: Callable[[str], Path], prompt: str, kind: str) -> Any:
    plan = make_plan(EngineConfig(str(checkpoint(kind)), prompt=prompt, dtype="bfloat16"))
    (row,) = plan.encoder.encode(QUERY, [Document("Water boils at 100 °C.")], None, "tail")
    assert isinstance(row, EncodedDocument)
    return plan, row.prompts[0].ids


def in_bf16_steps(value: float) -> bool:
    import torch

    return torch.tensor(value).bfloat16().item() == value


@pytest.mark.parametrize(("prompt", "kind"), [("prism", "qwen3"), ("zerank", "qwen3"), ("qanchor", "qwen3-seq-cls")])
def test_the_reference_computes_the_head_in_fp32_and_nothing_else(
    prompt: str, kind: str, checkpoint: Callable[[str], Path]
) -> None:
    import torch

    plan, ids = half(checkpoint, prompt, kind)
    reference = Reference(plan, "bfloat16", float32_head=True)
    model = reference.model
    head = model.score if kind == "qwen3-seq-cls" else model.lm_head
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        logits = hidden.float() @ head.weight.float().T
    read, labels = reference.read(ids), plan.encoder.labels
    positive = float(logits[labels.positive] if labels else logits[0])
    if labels is not None and labels.negative is not None:
        assert read.negative is not None
        margin = positive - float(logits[labels.negative])
        assert read.positive - read.negative == pytest.approx(margin, abs=1e-5)
        return
    assert read.positive == pytest.approx(positive, abs=1e-6) and not in_bf16_steps(read.positive)
    assert in_bf16_steps(Reference(plan, "bfloat16").read(ids).positive)


def test_the_reference_computes_in_the_engines_dtype(checkpoint: Callable[[str], Path]) -> None:
    """Which on a GPU is not that of a checkpoint in float32."""
    plan = make_plan(EngineConfig(str(checkpoint("qwen3")), prompt="prism"))
    for dtype in ("bfloat16", "float32"):
        assert str(Reference.beside(plan, {"dtype": dtype}).model.dtype) == f"torch.{dtype}"


def test_the_embedding_is_still_the_heads(checkpoint: Callable[[str], Path]) -> None:
    plan, _ = half(checkpoint, "prism", "qwen3")
    model = Reference(plan, "bfloat16", float32_head=True).model
    assert model.get_input_embeddings().weight is model.lm_head.weight

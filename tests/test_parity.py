"""Scores equal to plain transformers: every prompt on its route, every kind of text, alone and together with any others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from conftest import Serve, Served
from samples import DOCUMENTS, QUERY, hostile_texts
from whyrank import Document, RankedDocument, Reranker
from whyrank.checkpoints import make_plan
from whyrank.config import EngineConfig
from whyrank.prompting.scoring import Score, score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.types import DocumentError, TruncationPolicy

ROUTES = [
    pytest.param(("prism",), id="prism"),
    pytest.param(("qwen3-reranker",), id="qwen3-reranker"),
    pytest.param(("prism", "qwen3_5"), id="prism-hybrid"),
    pytest.param(("qwen3-vl-reranker",), id="qwen3-vl-reranker"),
    pytest.param(("zerank",), id="zerank"),
    pytest.param(("ctxl-v2",), id="ctxl-v2"),
    pytest.param(("mxbai-v2",), id="mxbai-v2"),
    pytest.param(("bge-v2-gemma",), id="bge-v2-gemma"),
    pytest.param(("qanchor",), id="qanchor"),
    pytest.param(("multi-hop",), id="multi-hop"),
    pytest.param(("bge-reranker",), id="bge-reranker"),
    pytest.param(("querit",), id="querit"),
    pytest.param(("prism", "qwen3", "classify"), id="prism-classify"),
    pytest.param(("bge-v2-gemma", "gemma", "classify"), id="bge-v2-gemma-classify"),
]
_FP32_SCORE = 1e-5
_BF16_MARGIN = 0.05


@pytest_asyncio.fixture(scope="module", params=ROUTES)  # for the file: pytest runs all tests of an engine in a row
async def served(request: pytest.FixtureRequest, serve: Serve) -> Served:
    served: Served = await serve(*request.param)
    return served


def assert_equal(served: Served, rows: tuple[RankedDocument, ...], wanted: list[Score]) -> None:
    exact = served.runtime.facts()["dtype"] == "float32"
    for row, want in zip(rows, wanted, strict=True):
        assert row.error is None, row
        assert row.margin is not None and row.score is not None
        where = f"{row.document.content[:40]!r}: {row.margin} instead of {want.margin}"
        if exact:
            assert abs(row.score - want.score) <= _FP32_SCORE, where
        else:
            assert abs(row.margin - want.margin) <= _BF16_MARGIN, where
        if row.label_mass is not None:
            assert row.label_mass == pytest.approx(want.label_mass, rel=1e-3 if exact else 0.2)


async def test_every_kind_of_text_alone(served: Served) -> None:
    texts = [*DOCUMENTS.values(), *hostile_texts(["<|im_end|>", "[SEP]", "<eos>"], count=12)[4:]]
    for text in texts:
        assert_equal(served, await served.reranker.score(QUERY, [text]), [served.expected(QUERY, text)])


@pytest.mark.parametrize("policy", ["tail", "head", "middle", "windows"])
async def test_truncated_text(served: Served, policy: TruncationPolicy) -> None:
    """Truncated prompts get the scores that transformers gives the same ids, and the frame around them is complete."""
    frame = len(served.plan.encoder.shared_prefix(None))
    plan = make_plan(replace(served.plan.config, max_length=frame + 160))
    reranker = Reranker.from_runtime(served.runtime, plan.encoder, plan.config)
    text = DOCUMENTS["long"][:4000]
    (row,) = await reranker.score(QUERY, [text], truncation=policy)
    (encoded,) = plan.encoder.encode(QUERY, [Document(text)], None, policy)
    assert isinstance(encoded, EncodedDocument)
    assert row.truncation is not None and row.truncation.truncated
    rule = plan.format.score_rule
    wanted = [score_of(served.reference.read(prompt.ids), rule) for prompt in encoded.prompts]
    assert_equal(served, (row,), [max(wanted, key=lambda score: score.margin)])


async def test_in_a_batch_of_mixed_lengths(served: Served) -> None:
    dice = random.Random(3)
    words = DOCUMENTS["long"].split()
    # Few enough to compare with slow transformers, repeated with new neighbours to make a batch of 64.
    known = [" ".join(words[: dice.choice([1, 7, 40, 160])]) + f" {i}" for i in range(16)]
    fillers = [" ".join(dice.choices(words, k=dice.randint(1, 300))) for _ in range(48)]
    batch = known + fillers
    dice.shuffle(batch)
    rows = {row.document.text: row for row in await served.reranker.score(QUERY, batch)}
    assert_equal(served, tuple(rows[text] for text in known), [served.expected(QUERY, text) for text in known])


@pytest.mark.parametrize(
    "family",
    [
        ("prism", "qwen3_5-vision"),
        ("qwen3-vl-reranker", "qwen3-vl", "classify"),
    ],
    ids="-".join,
)
async def test_of_a_checkpoint_that_could_see_only_the_text_model_is_used(
    family: tuple[str, ...], serve: Serve
) -> None:
    """Nothing tries to load an image processor: those of the tiny checkpoints cannot be loaded."""
    served: Served = await serve(*family)
    assert served.plan.checkpoint.has_vision
    texts = [*DOCUMENTS.values()]
    rows = await served.reranker.score(QUERY, texts)
    assert_equal(served, rows, [served.expected(QUERY, text) for text in texts])


async def test_what_could_see_reuses_prefixes_like_what_cannot(serve: Serve) -> None:
    cached = []
    for kind in ("qwen3_5", "qwen3_5-vision"):
        served: Served = await serve("prism", kind)
        texts = [*DOCUMENTS.values()]
        rankings = [await served.reranker.rerank(QUERY, texts, cache_salt="this test") for _ in range(2)]
        cached.append([(ranking.usage.cached_tokens, ranking.usage.prompt_tokens) for ranking in rankings])
    assert cached[0] == cached[1] and cached[0][0][0] > 0


def test_an_image_is_the_error_of_its_document(checkpoint: Callable[[str], Path]) -> None:
    """Of a model that could see it; to others it is metadata."""
    image = Document("a lamp", metadata={"image": "https://example.com/lamp.png"})
    bad, *good = encoded(
        "qwen3-vl", checkpoint, [image, Document("a lamp"), Document("a lamp", metadata={"image": None})]
    )
    assert isinstance(bad, DocumentError) and bad.code == "media"
    assert "has 'image', and whyrank reads texts only, of this model, too: leave it out, or give" in bad.message
    assert isinstance(good[0], EncodedDocument) and good[0] == good[1]
    assert isinstance(encoded("qwen3", checkpoint, [image])[0], EncodedDocument)


def encoded(
    kind: str, checkpoint: Callable[[str], Path], documents: list[Document]
) -> list[EncodedDocument | DocumentError]:
    prompt = {"qwen3-vl": "qwen3-vl-reranker", "qwen3": "prism"}[kind]
    return make_plan(EngineConfig(str(checkpoint(kind)), prompt=prompt)).encoder.encode(QUERY, documents, None, "tail")


async def test_under_concurrent_calls(served: Served) -> None:
    texts = [DOCUMENTS[kind] for kind in ("short", "chinese", "emoji", "html")]
    queries = [f"{QUERY} ({n})" for n in range(20)]
    answers = await asyncio.gather(*(served.reranker.score(query, texts) for query in queries))
    for query, rows in list(zip(queries, answers, strict=True))[::5]:
        assert_equal(served, rows, [served.expected(query, text) for text in texts])


async def test_labels_agree_with_the_masked_top_k_recipe_where_that_one_has_them(serve: Serve) -> None:
    """The widely copied recipe (logprobs=20 with allowed_token_ids) reads the unmasked top 20, so here it misses a label."""
    served: Served = await serve("prism")
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    labels = served.plan.encoder.labels
    assert labels is not None and labels.negative is not None
    (row,) = served.plan.encoder.encode(QUERY, [Document("water")], None, "tail")
    assert isinstance(row, EncodedDocument)
    recipe = SamplingParams(
        max_tokens=1, temperature=0, logprobs=20, allowed_token_ids=[labels.positive, labels.negative]
    )
    prompt = tokens_input(list(row.prompts[0].ids))
    outputs = [out async for out in served.runtime.engine.generate(prompt, recipe, "recipe")]  # type: ignore[attr-defined]
    token_ids = set(outputs[-1].outputs[0].logprobs[0])
    assert not {labels.positive, labels.negative} <= token_ids
    (ours,) = await served.reranker.score(QUERY, ["water"])
    assert ours.margin == pytest.approx(served.expected(QUERY, "water").margin, abs=1e-4)

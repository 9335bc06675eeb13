"""Mode "spans": where in the chosen documents the answer is, by scores of their sentences, on every route."""

from __future__ import annotations

from itertools import pairwise

import pytest

from conftest import Serve, Served
from samples import QUERY
from whyrank import Document
from whyrank.errors import InvalidRequest
from whyrank.pipeline.spans import passages
from whyrank.request import RerankRequest

WATER = (
    "The lighthouse was built in 1869 and painted red. Its keeper wrote down every ship that passed the cape. "
    "Water boils at 100 °C at sea level, as every child learns at school. Short. "
    "On Mount Everest the boiling point is 71 °C because the air is thin up there."
)


@pytest.mark.parametrize(
    "document",
    [
        Document(WATER),
        Document(WATER, title="Boiling"),
        Document("水在海平面的沸点是100℃。乙醇的沸点是78℃,比水低。沸点随高度的增加而降低。"),
        Document("One.\nTwo.\n\n- three\n- four " * 30),
        Document("No end"),
    ],
)
def test_passages_are_whole_sentences_of_the_text(document: Document) -> None:
    parts = passages(document)
    title = len(document.content) - len(document.text)
    assert parts and all(title <= start < end <= len(document.content) for start, end in parts)
    assert all(end <= start for (_, end), (start, _) in pairwise(parts))
    whole = "".join(document.content[start:end] for start, end in parts)
    kept = "".join(whole.split()).replace("-", "")
    assert kept == "".join(document.text.split()).replace("-", "")


def test_a_short_sentence_goes_with_the_next() -> None:
    text = f"{'Long enough to stand alone, ' * 4}yes. Short. {'Another long sentence, ' * 4}yes."
    assert [text[start:end][:6] for start, end in passages(Document(text))] == ["Long e", "Short."]


def test_an_empty_document_has_no_passages() -> None:
    assert passages(Document("  ", title="Only a title")) == []


@pytest.mark.parametrize("family", [("prism",), ("prism", "qwen3", "classify"), ("multi-hop",)], ids="-".join)
async def test_spans_are_scores_of_passages(family: tuple[str, ...], serve: Serve) -> None:
    served: Served = await serve(*family)
    documents = [Document(WATER, title="Boiling", id="w"), Document("Nothing of the kind."), Document(WATER[::-1])]
    options = {"mode": "spans", "evidence_top_n": 2, "evidence_min_score": 0.0, "span_min_score": 0.0, "max_spans": 2}
    ranking = await served.reranker.rerank(QUERY, documents, **options)  # type: ignore[arg-type]
    plain = await served.reranker.rerank(QUERY, documents)
    assert [row.score for row in ranking.results] == pytest.approx([row.score for row in plain.results], abs=1e-5)
    explained = [row for row in ranking.results if row.spans is not None]
    assert explained == list(ranking.results[:2]) and ranking.evidence_usage.prompt_tokens > 0
    for row in explained:
        assert row.spans is not None and not row.spans_limited
        assert 1 <= len(row.spans) <= 2
        assert [span.score for span in row.spans] == sorted((span.score for span in row.spans), reverse=True)
        for span in row.spans:
            text = row.document.content[span.start : span.end]
            (alone,) = await served.reranker.score(QUERY, [Document(text, title=row.document.title)])
            assert span.score == pytest.approx(alone.score, abs=1e-5)


async def test_spans_below_the_threshold_are_left_out(serve: Serve) -> None:
    served: Served = await serve("prism")
    (row,) = await served.reranker.score(QUERY, [WATER], mode="spans", evidence_min_score=0.0, span_min_score=1.0)
    assert row.spans == () and row.evidence is None


async def test_a_long_document_is_scored_in_part_and_says_so(serve: Serve) -> None:
    served: Served = await serve("prism")
    long = " ".join(
        f"Sentence number {n} of a very long document that nobody reads to its end at all." for n in range(200)
    )
    (row,) = await served.reranker.score(QUERY, [long], mode="spans", evidence_min_score=0.0, span_min_score=0.0)
    assert row.spans_limited and row.spans is not None and len(row.spans) == 3


def test_options_are_checked() -> None:
    with pytest.raises(InvalidRequest, match="max_spans is 0: give a whole number of at least 1"):
        RerankRequest.of("q", ["d"], mode="spans", max_spans=0)

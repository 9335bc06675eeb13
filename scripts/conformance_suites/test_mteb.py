# /// script
# dependencies = ["mteb", "sentence-transformers", "whyrank[mteb,sentence-transformers]"]
# [tool.conformance]
# works-with = ["mteb", "sentence-transformers"]
# ///
"""MTEB's evaluation and sentence-transformers' evaluator of cross-encoders, with whyrank's models over the server."""

from __future__ import annotations

from typing import Any

import mteb
import pytest
from mteb.mocks.mock_tasks import MockRerankingTask
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

from served import DOCUMENTS, QUERY, SERVED, expected
from whyrank.adapters import mteb as adapter
from whyrank.adapters.sentence_transformers import WhyrankCrossEncoder


def cross_encoder() -> WhyrankCrossEncoder:
    return WhyrankCrossEncoder(base_url=SERVED.url, api_key=SERVED.key)


def test_predict() -> None:
    found = cross_encoder().predict([(QUERY, text) for text in DOCUMENTS])
    assert dict(enumerate(found.tolist())) == pytest.approx(dict(expected()), abs=2e-3)


def test_rank() -> None:
    found = cross_encoder().rank(QUERY, DOCUMENTS, top_k=3, return_documents=True)
    assert [row["corpus_id"] for row in found] == [index for index, _ in expected()][:3]
    assert all(row["text"] == DOCUMENTS[row["corpus_id"]] for row in found)


def test_the_evaluator() -> None:
    samples = [{"query": QUERY, "positive": [DOCUMENTS[1]], "negative": [DOCUMENTS[0], *DOCUMENTS[2:]]}]
    found = CrossEncoderRerankingEvaluator(samples, name="lunch", write_csv=False)(cross_encoder())
    assert found["lunch_mrr@10"] == 1.0 and found["lunch_ndcg@10"] == 1.0


@pytest.mark.parametrize("task", [MockRerankingTask])
def test_mteb_evaluates(task: type[Any]) -> None:
    model = adapter.WhyrankCrossEncoder("whyrank/demo", "main", base_url=SERVED.url, api_key=SERVED.key)
    assert isinstance(model, mteb.CrossEncoderProtocol)
    result = mteb.evaluate(model, task(), cache=None, co2_tracker=False, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    assert 0 < scores["mrr_at_10"] <= 1 and result.model_name == "whyrank/demo"

"""The measures of the embedded model's written exam, on numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from demo_exam import ExamQuery, auc, exam, marks, ndcg
from eval_demo_model import calibration
from whyrank.evaluation.scorecard import Bins


def query(*relevance: int) -> ExamQuery:
    return ExamQuery("q", "en", tuple("abcd"[: len(relevance)]), relevance, tuple(() for _ in relevance))


def test_auc_counts_ties_as_half() -> None:
    assert auc([3.0, 1.0], [2.0, 1.0]) == pytest.approx(2.5 / 4)


def test_ndcg_is_one_in_the_best_order_and_less_otherwise() -> None:
    assert ndcg([2, 1, 0]) == 1.0
    assert ndcg([1, 2]) == pytest.approx((1 + 2 / 1.58496) / (2 + 1 / 1.58496), rel=1e-4)


def bins_of(scores: list[float], answers: list[bool]) -> Bins:
    bins = Bins(10)
    for score, answer in zip(scores, answers, strict=True):
        bins.add(score, answer)
    return bins


def test_calibration_error_is_the_distance_of_scores_from_shares() -> None:
    assert bins_of([0.25, 0.25, 0.25, 0.25], [True, False, False, False]).calibration_error() == 0.0
    far = bins_of([0.9, 0.1], [False, False])
    assert far.calibration_error() == pytest.approx(0.5)
    assert calibration(far)[-1] == {"score": 0.9, "answers": 0.0, "count": 1}


def test_marks_of_two_queries() -> None:
    queries = [query(2, 0, 0), query(0, 0), query(0, 2)] * 8
    result = marks(queries, [[0.9, 0.2, 0.1], [0.3, 0.2], [0.8, 0.4]] * 8, resamples=20)
    assert {name: round(figure["value"], 3) for name, figure in result.items()} == {
        "ndcg@10": 0.815,
        "first": 0.5,
        "auc": 0.9,
        "auc_within": 0.5,
        "answerable_auc": 1.0,
    }
    assert result["first"]["low"] <= 0.5 <= result["first"]["high"]


def test_the_exam_is_whole() -> None:
    queries = exam()
    assert len(queries) == 319 and sum(query.answerable for query in queries) == 252
    for one in queries:
        for text, relevance, answers in zip(one.documents, one.relevance, one.answers, strict=True):
            assert all(answer in text for answer in answers) and bool(answers) == (relevance == 2)

"""The arithmetic of scores, compared with numbers computed by hand."""

import math

import pytest

from whyrank.prompting.scoring import LabelRead, ScoreRule, score_of, yes_and_no
from whyrank.ranking import sort_rows
from whyrank.types import Document, DocumentError, RankedDocument


def test_two_labels_give_margin_score_and_mass() -> None:
    score = score_of(LabelRead(math.log(0.6), math.log(0.2)), ScoreRule())
    assert score.margin == pytest.approx(math.log(3))
    assert score.score == pytest.approx(0.75)
    assert score.label_mass == pytest.approx(0.8)


def test_a_raw_logit_has_no_mass() -> None:
    score = score_of(LabelRead(5.0), ScoreRule(scale=0.2))
    assert (score.margin, score.label_mass) == (5.0, None)
    assert score.score == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("grades", "score"),
    [
        ((0.4, 0.2, 0.1, 0.1), (0.4 + 0.2 * 2 / 3 + 0.1 / 3) / 0.8),
        ((0.2, 0.2, 0.2, 0.2), 0.5),
        ((0.9, 0.05, 0.05), 0.925),
        ((0.3, 0.1), 0.75),
    ],
)
def test_the_score_of_grades_is_the_expected_grade(grades: tuple[float, ...], score: float) -> None:
    got = score_of(LabelRead(*yes_and_no([math.log(one) for one in grades])), ScoreRule())
    assert (got.score, got.label_mass) == (pytest.approx(score), pytest.approx(sum(grades)))


def test_grades_far_from_likely_keep_their_order() -> None:
    high, low = yes_and_no([-900.0, -2000.0, -1500.0]), yes_and_no([-1500.0, -2000.0, -900.0])
    assert high == (-900.0, -1500.0) and low == (-1500.0, -900.0)
    assert yes_and_no([-math.inf] * 4) == (-math.inf, -math.inf)


def test_offset_moves_the_middle() -> None:
    assert score_of(LabelRead(4.5), ScoreRule(offset=4.5)).score == 0.5


@pytest.mark.parametrize(("logit", "score"), [(2000.0, 1.0), (-2000.0, 0.0), (0.0, 0.5)])
def test_far_margins_do_not_overflow(logit: float, score: float) -> None:
    assert score_of(LabelRead(logit), ScoreRule()).score == score


def test_mass_never_passes_one() -> None:
    assert score_of(LabelRead(math.log(0.7) + 1e-9, math.log(0.3) + 1e-9), ScoreRule()).label_mass == 1.0


def test_order_is_by_margin_then_input_and_errors_come_last() -> None:
    error = DocumentError("engine", "gone")
    rows = [
        RankedDocument(0, Document("a"), margin=1.0, score=0.73),
        RankedDocument(1, Document("b"), error=error),
        # Saturated scores tie where the margins still distinguish.
        RankedDocument(2, Document("c"), margin=40.0, score=1.0),
        RankedDocument(3, Document("d"), margin=41.0, score=1.0),
        RankedDocument(4, Document("e"), margin=1.0, score=0.73),
    ]
    assert [(row.index, row.rank) for row in sort_rows(rows)] == [(3, 1), (2, 2), (0, 3), (4, 4), (1, None)]

"""From what the engine read at the answer position to margin, score and order. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from whyrank.types import RankedDocument

__all__ = ["LEAST_LABEL_MASS", "LabelRead", "Score", "ScoreRule", "ranked", "score_of", "shown", "worth_writing"]

LEAST_LABEL_MASS = 0.5
"""Below this the model mostly wants to say something that is neither label: wrong prompt or wrong checkpoint."""


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """score = sigmoid(scale * (margin - offset)). Scale and offset never change the order."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelRead:
    """The labels' values at the answer position, and what reading them cost.

    Either both labels' log-probabilities (`negative` is set) or one raw logit (`negative` is None).
    """

    positive: float
    negative: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """margin: log-odds or raw logit, any real number; score: 0..1; label_mass: P(yes) + P(no), None for a raw logit."""

    margin: float
    score: float
    label_mass: float | None


def score_of(read: LabelRead, rule: ScoreRule) -> Score:
    """Not finite in, not finite out: the caller decides what a NaN means for its row."""
    if read.negative is None:
        margin, mass = read.positive, None
    else:
        margin = read.positive - read.negative
        # A sum of two rounded probabilities may pass 1 by an ulp.
        mass = min(1.0, math.exp(read.positive) + math.exp(read.negative))
    return Score(margin, _sigmoid(rule.scale * (margin - rule.offset)), mass)


def _sigmoid(x: float) -> float:
    # exp of a large positive number overflows, of a large negative one does not.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def shown(rows: Iterable[RankedDocument], min_score: float | None, top_n: int | None) -> tuple[RankedDocument, ...]:
    """What a caller asked to see of ranked rows. Documents in error are always seen."""
    rows = list(rows)
    good = [row for row in rows if row.score is not None and row.score >= (min_score or 0.0)]
    return (*good[:top_n], *(row for row in rows if row.error))


def worth_writing(results: Iterable[RankedDocument], least: float, most: int) -> list[RankedDocument]:
    """Those of an answer's rows that evidence is written for, best first."""
    return [row for row in results if row.score is not None and row.score >= least][:most]


def ranked(rows: Iterable[RankedDocument]) -> list[RankedDocument]:
    """Largest margin first, ties in input order, documents without one last. Ranks start at 1."""
    ordered = sorted(rows, key=lambda row: (row.margin is None, -(row.margin or 0.0), row.index))
    return [
        row if row.margin is None or row.rank == place else replace(row, rank=place)
        for place, row in enumerate(ordered, 1)
    ]

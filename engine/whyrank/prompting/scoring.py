"""Turns the labels' values at the answer position into margin and score. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MIN_LABEL_MASS", "LabelRead", "Score", "ScoreRule", "log_odds", "score_of", "sigmoid", "yes_and_no"]

MIN_LABEL_MASS = 0.5
"""Below this, most of the probability is on tokens that are not labels: the prompt or the checkpoint is wrong."""


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """score = sigmoid(scale * (margin - offset)). Scale and offset never change the order."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class LabelRead:
    """The labels' values at the answer position, and the tokens used to read them.

    Either both labels' log-probabilities (`negative` is set) or one raw logit (`negative` is None). Of grades, the
    log-probabilities of the yes and the no that they amount to.
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


def yes_and_no(logprobs: Sequence[float]) -> tuple[float, float]:
    """Grades' log-probabilities, from the most to the least relevant, as those of one yes and one no.

    Each grade is a yes to the degree that it is far from the last: of four, 1, 2/3, 1/3 and 0. So the score becomes the
    expected grade. Two grades are a yes and a no already, and stay as they are."""
    if len(logprobs) == 2:
        return logprobs[0], logprobs[1]
    last = len(logprobs) - 1
    yes = [value + math.log((last - place) / last) for place, value in enumerate(logprobs[:-1])]
    no = [value + math.log(place / last) for place, value in enumerate(logprobs) if place]
    return _log_of_sum(yes), _log_of_sum(no)


def _log_of_sum(logs: Sequence[float]) -> float:
    largest = max(logs)
    if not math.isfinite(largest):
        return largest
    return largest + math.log(sum(math.exp(one - largest) for one in logs))


def log_odds(logprobs: Sequence[float]) -> list[float]:
    """Of each of several answers, the log-odds against all the others together."""
    return [value - _log_of_sum([*logprobs[:at], *logprobs[at + 1 :]]) for at, value in enumerate(logprobs)]


def score_of(read: LabelRead, rule: ScoreRule) -> Score:
    """A value that is not finite gives a score that is not finite; the caller makes it the row's error."""
    if read.negative is None:
        margin, mass = read.positive, None
    else:
        margin = read.positive - read.negative
        # The sum of two rounded probabilities may exceed 1 by an ulp.
        mass = min(1.0, math.exp(read.positive) + math.exp(read.negative))
    return Score(margin, sigmoid(rule.scale * (margin - rule.offset)), mass)


def sigmoid(x: float) -> float:
    # exp overflows for a large positive number, but not for a large negative one.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

"""Scores a relevant and an unrelated text at startup: a model that gives both the same score is broken, and is refused."""

from __future__ import annotations

import logging

from whyrank.base import BaseReranker
from whyrank.errors import CheckpointError
from whyrank.prompting.scoring import MIN_LABEL_MASS
from whyrank.types import Method, RankedDocument

__all__ = ["CANARY_QUERY", "CANARY_TEXT", "canary_margin", "canary_row", "has_drifted"]

logger = logging.getLogger(__name__)

CANARY_QUERY = "What is the capital of France?"
CANARY_TEXT = "Paris is the capital and largest city of France."
_OFF_TOPIC = "Bread rises because yeast turns sugar into gas."
# In log-odds. Batching moves bf16 sums by a few hundredths; broken weights or memory move them by more.
_TOLERANCE = 0.25


async def canary_row(reranker: BaseReranker, method: Method) -> RankedDocument:
    """The relevant text's, of a running engine."""
    texts = [CANARY_TEXT] if method == "pointwise" else [CANARY_TEXT, _OFF_TOPIC]
    row, *_ = await reranker.score(CANARY_QUERY, texts, method=method)
    return row


async def canary_margin(reranker: BaseReranker, model: str, method: Method) -> float | None:
    """The margin of the relevant pair; None for an order without scores. Raises CheckpointError if a score is not a number, or
    if both texts get the same one; which of the two is higher is not checked. `reranker` must have no calibration."""
    row, other = await reranker.score(CANARY_QUERY, [CANARY_TEXT, _OFF_TOPIC], method=method)
    for one in (row, other):
        if one.error is not None:
            raise CheckpointError(f"{model}: the warm-up pair has no score: {one.error.message}")
    if row.margin is None:
        return None
    if row.margin == other.margin:
        raise CheckpointError(
            f"{model} gives different texts the same score, {row.score:.4f} (margin {row.margin:.4f}): "
            "its weights, its head or its prompt do not fit; try `whyrank doctor`"
        )
    if row.label_mass is not None and row.label_mass < MIN_LABEL_MASS:
        logger.warning(
            "%s puts only %.4f of the probability on its labels: prompt and weights probably do not fit; "
            "try `whyrank doctor`",
            model,
            row.label_mass,
        )
    return row.margin


def has_drifted(margin: float | None, expected: float | None) -> bool:
    """Whether a running engine gives the relevant pair another margin than at its start."""
    if margin is None or expected is None:
        return margin is not expected  # an order has neither
    return abs(margin - expected) > _TOLERANCE

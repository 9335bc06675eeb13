"""Scores, against those of plain transformers and of the checkpoint's own recipe."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from statistics import median

from whyrank.checkpoints import Plan
from whyrank.doctor.report import PARITY, Facts, Finding
from whyrank.doctor.texts import PLAIN, QUERY
from whyrank.errors import PermanentError
from whyrank.prompting.listwise import ListPrompts
from whyrank.prompting.scoring import Score, log_odds, score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.request import RerankRequest
from whyrank.runtimes.reference import Reference, cross_encoder_margins
from whyrank.shipped import ships_recipe
from whyrank.types import RankedDocument

__all__ = ["list_parity", "margin_tolerance", "noise_of", "parity_finding", "recipe_findings"]

# fp32 engines agree to rounding. Others take sums in another order, too, and by how much that moves the log-odds depends on the
# model: at least 0.05 is allowed, and otherwise a multiple of what the engine's own scores differ by from batch to batch. The
# factor is for the largest of some hundred differences beside the median of a dozen. More than 0.5 is no rounding.
_SCORE_TOLERANCE = 1e-5
_MIN_MARGIN_TOLERANCE, _NOISE_FACTOR, _MAX_MARGIN_TOLERANCE = 0.05, 6, 0.5
_RECIPE_TOLERANCE = 1e-3
# With what transformers and the libraries beneath it refuse a quantised checkpoint, when they load it or at its first prompt.
_NO_REFERENCE = (PermanentError, RuntimeError, ValueError, TypeError, AttributeError, KeyError)


def noise_of(together: Sequence[RankedDocument], alone: Sequence[RankedDocument]) -> float:
    """What the built-in pairs' margins differ by, as a rule, between one batch of all and a batch for each, without a cache."""
    pairs = zip(together, alone, strict=False)  # the user's own come last, and are scored once
    gaps = [abs(a.margin - b.margin) for a, b in pairs if a.margin is not None and b.margin is not None]
    return median(gaps) if gaps else 0.0


def margin_tolerance(noise: float) -> float:
    """How far a margin may be from plain transformers' where neither computes in full precision."""
    return min(max(_MIN_MARGIN_TOLERANCE, _NOISE_FACTOR * noise), _MAX_MARGIN_TOLERANCE)


def parity_finding(
    plan: Plan, requests: Sequence[RerankRequest], rows: Sequence[RankedDocument], facts: Facts, noise: float
) -> Finding:
    failed = [row.error.message for row in rows if row.error]
    if failed:
        return Finding(PARITY, f"{len(failed)} of {len(rows)} pairs failed: {failed[0]}", good=False)
    try:
        reference = Reference.beside(plan, facts)
        wanted = _reference_scores(reference, plan, requests)
    except _NO_REFERENCE as cause:
        if plan.checkpoint.quantization is None:
            raise
        return Finding(PARITY, _why_not_compared(plan, cause))
    score = max(abs(want.score - (row.score or 0.0)) for want, row in zip(wanted, rows, strict=True))
    margin = max(abs(want.margin - (row.margin or 0.0)) for want, row in zip(wanted, rows, strict=True))
    weights = " with the same quantised weights" if plan.checkpoint.quantization else ""
    value = f"against transformers{weights} on {len(rows)} pairs: score within {score:.1e}, margin within {margin:.1e}"
    if _is_exact(plan, facts, reference):
        return Finding(PARITY, value, score <= _SCORE_TOLERANCE)
    if plan.checkpoint.quantization and plan.checkpoint.quantization.has_fp8_inputs:
        tolerance, why = _MAX_MARGIN_TOLERANCE, "inputs are rounded to fp8, in steps of up to an eighth"
    else:
        tolerance, why = margin_tolerance(noise), f"from batch to batch the engine itself differs by {noise:.1e}"
    return Finding(PARITY, f"{value} ({tolerance:.2g} allowed; {why})", margin <= tolerance)


def _reference_scores(reference: Reference, plan: Plan, requests: Sequence[RerankRequest]) -> list[Score]:
    encoded = [row for each in requests for row in plan.encoder.encode(each.query, each.documents, None, "tail")]
    ids = [row.prompts[0].ids for row in encoded if isinstance(row, EncodedDocument)]
    return [score_of(reference.read(one), plan.format.score_rule) for one in ids]


def _why_not_compared(plan: Plan, cause: BaseException) -> str:
    model, reason = plan.config.model, (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    reason = reason.removeprefix(f"model {model!r}: ").removeprefix("transformers cannot load it: ")
    return (
        f"not compared: transformers cannot run this checkpoint ({reason:.200}). What quantising cost is shown by `whyrank "
        f"compare ORIGINAL {model} --data house`"
    )


def _is_exact(plan: Plan, facts: Facts, reference: Reference) -> bool:
    """Whether engine and reference differ in nothing but the order of sums of float32."""
    if plan.checkpoint.quantization is not None or "matmul" in facts:
        return False
    return facts.get("dtype") == "float32" and str(reference.model.dtype) == "torch.float32"


def recipe_findings(plan: Plan, rows: Sequence[RankedDocument], facts: Facts, noise: float) -> list[Finding]:
    """Against sentence-transformers, where the checkpoint says how that is to score it, whatever prompt is used here.

    On texts without white space around them, which a template may strip, and without what that library reads as control."""
    if not ships_recipe(plan.config):
        return []
    name = "own recipe"
    if find_spec("sentence_transformers") is None:
        return [Finding(name, "not compared: pip install sentence-transformers")]
    places = [place for place, text in enumerate(PLAIN) if text == text.strip()]
    try:
        wanted = cross_encoder_margins(plan, str(facts["dtype"]), [(QUERY, PLAIN[place]) for place in places])
    except (OSError, ValueError, RuntimeError, ImportError) as cause:
        return [Finding(name, f"not compared: sentence-transformers cannot run it ({str(cause).splitlines()[0]:.200})")]
    margin = max(abs(want - (rows[place].margin or 0.0)) for want, place in zip(wanted, places, strict=True))
    tolerance = _RECIPE_TOLERANCE if facts.get("dtype") == "float32" else margin_tolerance(noise)
    value = f"against sentence-transformers on {len(wanted)} pairs: margin within {margin:.1e}"
    return [Finding(name, value, margin <= tolerance)]


def list_parity(plan: Plan, prompts: ListPrompts, rows: Sequence[RankedDocument], facts: Facts) -> list[Finding]:
    """Of the identifiers' probabilities, where they are read. What a model writes has no such reference."""
    margins = [row.margin for row in rows if row.margin is not None]
    if len(margins) < len(rows):
        return []
    tokens = plan.identifier_ids[: len(rows)]
    wanted = log_odds(Reference.beside(plan, facts).logprobs(prompts.encode(range(len(rows))), tokens))
    margin = max(abs(want - got) for want, got in zip(wanted, margins, strict=True))
    tolerance = _RECIPE_TOLERANCE if facts.get("dtype") == "float32" else _MAX_MARGIN_TOLERANCE
    return [Finding(PARITY, f"against transformers on one list: margin within {margin:.1e}", margin <= tolerance)]

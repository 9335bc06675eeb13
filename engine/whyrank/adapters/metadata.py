"""A result row as the metadata of a framework's document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from whyrank.types import RankedDocument

__all__ = ["KEYS", "evidence_of", "noted", "unnoted"]

KEYS = (
    "relevance_score",
    "margin",
    "calibrated_score",
    "contribution",
    "evidence",
    "evidence_finish",
    "evidence_supported",
    "evidence_altered",
    "evidence_unverified",
    "evidence_backed_by_model",
    "evidence_unsupported",
    "evidence_variants",
    "spans",
    "rerank_error",
)
"""The score in 0..1 and the log-odds behind it; what the model wrote, how far the document backs it, and
its other wordings; where the answer
stands, as start, end and score; why there is no score. A key that does not apply is left out."""


def noted(metadata: Mapping[str, Any], row: RankedDocument) -> dict[str, Any]:
    """The metadata with the row's result. Keys of an earlier reranking are removed: they belong to another query."""
    return unnoted(metadata) | _notes(row)


def unnoted(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in KEYS}


def _notes(row: RankedDocument) -> dict[str, Any]:
    values: dict[str, Any] = {
        "relevance_score": row.score,
        "margin": row.margin,
        "calibrated_score": row.calibrated_score,
    }
    if row.evidence:
        values |= {name: getattr(row.evidence, name) for name in ("contribution", "evidence")}
        values["evidence_finish"] = row.evidence.finish
        values["evidence_variants"] = [one.evidence for one in row.evidence.variants] or None
        if grounding := row.evidence.grounding:
            values["evidence_supported"] = grounding.supported
            values["evidence_altered"] = grounding.altered
            values["evidence_unverified"] = grounding.unverified
            if grounding.verification:
                values["evidence_backed_by_model"] = grounding.verification.backed
            values["evidence_unsupported"] = [item.text for item in grounding.unsupported]
    if row.spans is not None:
        values["spans"] = [asdict(span) for span in row.spans]
    if row.error:
        values["rerank_error"] = row.error.message
    return {key: value for key, value in values.items() if value is not None}


def evidence_of(row: RankedDocument) -> str | None:
    """The text that can replace the document: evidence that was not interrupted, or the text of the spans."""
    if row.evidence and row.evidence.evidence and row.evidence.finish in ("complete", "budget"):
        return row.evidence.evidence
    return row.span_text or None

"""What can be said about written evidence without a judge: counted, never asked of a model.

Shares over the written documents, each 0 to 1; better is more for format, grounded, complete, answer_recall, and less for
the others. The thresholds of repetition, length and language are those of `whyrank.grounding`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from whyrank.types import RankedDocument

__all__ = ["EVIDENCE_MEASURES", "evidence_measures"]

EVIDENCE_MEASURES: Mapping[str, str] = {
    "format": "both texts are there, and the answer ended as it should",
    "grounded": "share of the evidence that its document supports",
    "unsupported": "something checkable is not in the document",
    "compression": "length of the evidence beside its document's",
    "repetition": "it went round in circles",
    "truncated": "it was cut at its budget or deadline",
    "wrong_language": "not the language of document or query",
    "answer_recall": "share of the gold answers that it holds",
}


def evidence_measures(row: RankedDocument, answers: Sequence[str] = ()) -> dict[str, float]:
    """Of one written document. answer_recall only where there are gold answers."""
    written = row.evidence
    if written is None:
        return {}
    flags = written.grounding.flags if written.grounding else ()
    values = {
        "format": float(
            written.finish == "complete" and bool(written.contribution.strip() and written.evidence.strip())
        ),
        "grounded": round(written.grounding.supported, 6) if written.grounding else 0.0,
        "unsupported": float(bool(written.grounding and written.grounding.unsupported)),
        "compression": round(len(written.evidence) / max(1, len(row.document.content)), 6),
        "repetition": float(written.finish == "repetition" or "repetition" in flags),
        "truncated": float(written.finish in ("budget", "deadline", "aborted")),
        "wrong_language": float("language" in flags),
    }
    if answers:
        text = _folded(f"{written.contribution} {written.evidence}")
        values["answer_recall"] = round(sum(_folded(answer) in text for answer in answers) / len(answers), 6)
    return values


def _folded(text: str) -> str:
    """Case, width, accents' spelling and white space do not matter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

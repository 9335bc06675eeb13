"""The native JSON shapes, one home for the command line's --json and for HTTP. types ↔ wire is a pure mapping."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from whyrank.events import Event, EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.types import RankedDocument

__all__ = [
    "ErrorBody",
    "GroundingBody",
    "RankingBody",
    "ResultBody",
    "SpanBody",
    "TruncationBody",
    "UnsupportedBody",
    "UsageBody",
    "WindowBody",
    "event_document",
]


class _Body(BaseModel):
    # Built straight from the frozen values of types.py: same names, properties included.
    model_config = ConfigDict(from_attributes=True, frozen=True)


class WindowBody(_Body):
    start: int
    end: int


class TruncationBody(_Body):
    original_tokens: int
    used_tokens: int
    policy: str
    truncated: bool
    query_tokens_cut: int
    window: WindowBody | None


class ErrorBody(_Body):
    code: str
    message: str


class SpanBody(_Body):
    evidence_start: int
    evidence_end: int
    start: int
    end: int
    similarity: float


class UnsupportedBody(_Body):
    kind: str
    text: str
    start: int
    end: int


class GroundingBody(_Body):
    supported: float
    spans: list[SpanBody]
    unsupported: list[UnsupportedBody]
    flags: list[str]


class ResultBody(_Body):
    """One document. The last five keys are there only where evidence was asked for and this document was chosen,
    calibrated_score only where the engine was given a calibration."""

    index: int
    id: str | None
    rank: int | None
    score: float | None
    margin: float | None
    label_mass: float | None
    truncation: TruncationBody | None
    error: ErrorBody | None
    calibrated_score: float | None = None
    contribution: str = ""
    evidence: str = ""
    finish: str = ""
    output_tokens: int = 0
    grounding: GroundingBody | None = None

    @classmethod
    def of(cls, row: RankedDocument) -> Self:
        own = {name: getattr(row, name) for name in ("index", "id", "rank", "score", "margin", "label_mass")}
        own |= {"truncation": row.truncation, "error": row.error}
        if row.calibrated_score is not None:
            own["calibrated_score"] = row.calibrated_score
        written = ("contribution", "evidence", "finish", "output_tokens", "grounding") if row.evidence else ()
        return cls.model_validate(own | {name: getattr(row.evidence, name) for name in written})


class UsageBody(_Body):
    prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    output_tokens: int


class RankingBody(_Body):
    results: list[ResultBody]
    usage: UsageBody
    evidence_usage: UsageBody
    model: str
    prompt: str

    @classmethod
    def of(cls, ranking: Ranking) -> Self:
        return cls(
            results=[ResultBody.of(row) for row in ranking.results],
            usage=UsageBody.model_validate(ranking.usage),
            evidence_usage=UsageBody.model_validate(ranking.evidence_usage),
            model=ranking.model,
            prompt=ranking.prompt,
        )

    def document(self) -> dict[str, Any]:
        """For json.dumps. Keys that do not apply are left out; the others are there even when null."""
        return self.model_dump(mode="json", exclude_unset=True)


_EVENT_NAMES: dict[type, Literal["score", "ranking", "delta", "evidence", "done"]] = {
    Scored: "score",
    Ranked: "ranking",
    EvidenceDelta: "delta",
    EvidenceDone: "evidence",
    Finished: "done",
}


def event_document(event: Event) -> dict[str, Any]:
    """One event as one JSON object: `event` names it, `data` is the row, the ranking or the piece of text."""
    match event:
        case Scored(row) | EvidenceDone(row):
            data = ResultBody.of(row).model_dump(mode="json", exclude_unset=True)
        case Ranked(ranking) | Finished(ranking):
            data = RankingBody.of(ranking).document()
        case EvidenceDelta(index, part, text):
            data = {"index": index, "part": part, "text": text}
    return {"event": _EVENT_NAMES[type(event)], "data": data}

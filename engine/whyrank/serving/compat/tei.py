"""The rerank API of Text Embeddings Inference."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from fastapi import Body, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from whyrank.errors import InvalidRequest
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.serving.compat.rows import ROWS_RESPONSE, RowsResponse, evidence_of, scored_rows
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank
from whyrank.wire import EvidenceResponse, OptionsRequest, Strings, side_given_up

__all__ = ["TEI", "TEI_EXAMPLE", "TeiRequest", "TeiRow", "rerank", "router", "tei_error", "tei_response"]


class TeiEmpty(InvalidRequest):
    """TEI has a status of its own for it."""

    status = 400


class TeiRequest(OptionsRequest):
    query: str
    texts: Strings
    truncate: bool | None = Field(None, description="false: an over-long text is an error. As in TEI, true by default.")
    truncation_direction: Literal["left", "right", "Left", "Right"] = "right"
    raw_scores: bool = False
    return_text: bool = False

    @property
    def count(self) -> int:
        return len(self.texts)

    @property
    def refuses_truncation(self) -> bool:
        return self.truncate is False or self.truncation is False

    def options(self) -> RerankOptions:
        return side_given_up(self.truncation_direction) | super().options()

    def to_request(self) -> RerankRequest:
        if not self.texts:
            raise TeiEmpty("`texts` cannot be empty")
        return RerankRequest.of(self.query, self.texts, **self.options())


class TeiRow(EvidenceResponse):
    index: int
    text: NotRequired[str]
    score: float


class TeiError(TypedDict):
    error: str
    error_type: str


def tei_response(body: TeiRequest, ranking: Ranking) -> list[TeiRow]:
    rows: list[TeiRow] = []
    for row, score in scored_rows(ranking):
        shown = row.margin if body.raw_scores and row.margin is not None else score
        result: TeiRow = {"index": row.index, "score": shown}
        if body.return_text:
            result = {"index": row.index, "text": row.document.text, "score": shown}
        rows.append({**result, **evidence_of(row)})
    return rows


_ERROR_TYPES = {
    400: "Empty",
    401: "Unauthorized",
    413: "Validation",
    422: "Validation",
    429: "Overloaded",
    503: "Unhealthy",
}


def tei_error(status: int, kind: str, message: str, request_id: str) -> TeiError:
    return {"error": message, "error_type": _ERROR_TYPES.get(status, "Backend")}


TEI = ErrorStyle(tei_error, TeiError, invalid_status=422)
router = new_router("Text Embeddings Inference", TEI)

_TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."]
TEI_EXAMPLE = {"query": "At what temperature does water boil?", "texts": _TEXTS, "return_text": True}


@router.post("/tei/rerank", summary="TEI's", response_model=list[TeiRow], responses=ROWS_RESPONSE)
async def rerank(
    body: Annotated[TeiRequest, Body(openapi_examples={"Texts": {"value": TEI_EXAMPLE}})], raw: Request
) -> Response:
    """For clients of Text Embeddings Inference: `texts` in, a bare array out."""
    ranking = await rank(body, raw)
    return RowsResponse(tei_response(body, ranking), ranking)

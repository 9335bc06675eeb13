"""The rerank API of Text Embeddings Inference."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from fastapi import Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from whyrank.errors import InvalidRequest
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.serving.compat import rows
from whyrank.serving.examples import QUERY, TEXTS, examples
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank
from whyrank.wire import EvidenceResponse, OptionsRequest, Strings, side_given_up

__all__ = ["TEI", "TeiRequest", "TeiRow", "rerank", "router"]


class TeiError(TypedDict):
    error: str
    error_type: str


def tei_error(status: int, kind: str, message: str, request_id: str) -> TeiError:
    types = {
        400: "Empty",
        401: "Unauthorized",
        413: "Validation",
        422: "Validation",
        429: "Overloaded",
        503: "Unhealthy",
    }
    return {"error": message, "error_type": types.get(status, "Backend")}


TEI = ErrorStyle(tei_error, TeiError, invalid_status=422)
router = new_router("Text Embeddings Inference", TEI)


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


def tei_response(body: TeiRequest, ranking: Ranking) -> list[TeiRow]:
    results: list[TeiRow] = []
    for row, score in rows.scored(ranking):
        shown = row.margin if body.raw_scores and row.margin is not None else score
        result: TeiRow = {"index": row.index, "score": shown}
        if body.return_text:
            result = {"index": row.index, "text": row.document.text, "score": shown}
        results.append({**result, **rows.evidence_of(row)})
    return results


_EXAMPLES = examples({"Texts": {"query": QUERY, "texts": TEXTS, "return_text": True}})


@router.post("/tei/rerank", summary="TEI's", response_model=list[TeiRow], responses=rows.IN_OPENAPI)
async def rerank(body: Annotated[TeiRequest, _EXAMPLES], raw: Request) -> Response:
    """For clients of Text Embeddings Inference: `texts` in, a bare array out."""
    ranking = await rank(body, raw)
    return rows.RowsResponse(tei_response(body, ranking), ranking)

"""The rerank API of Text Embeddings Inference."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from fastapi import Request, Response
from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from whyrank import __version__
from whyrank.errors import InvalidRequest
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.serving.compat import rows
from whyrank.serving.context import service_of
from whyrank.serving.examples import QUERY, TEXTS, examples
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.handlers import rank, warnings_of
from whyrank.serving.responses import JsonResponse
from whyrank.wire.requests import OptionsRequest, Query, Strings, side_given_up
from whyrank.wire.responses import EvidenceResponse

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


TEI = ErrorStyle(tei_error, TeiError, statuses={400: 422})
router = new_router("Text Embeddings Inference", TEI)


class TeiEmpty(InvalidRequest):
    """TEI has a status of its own for it."""

    status = 400


def _capital(value: Any) -> Any:
    return value.capitalize() if isinstance(value, str) else value


class TeiRequest(OptionsRequest):
    query: Query
    texts: Strings
    truncate: bool | None = Field(
        None, description="false: an over-long text is an error; true: it is truncated, the query too."
    )
    # TEI's own OpenAPI has capitals; its server takes small letters, too.
    truncation_direction: Annotated[Literal["Left", "Right"], BeforeValidator(_capital)] = "Right"
    raw_scores: bool = False
    return_text: bool = False

    @property
    def count(self) -> int:
        return len(self.texts)

    @property
    def refuses_truncation(self) -> bool:
        return self.truncate is False or self.truncation is False

    def options(self) -> RerankOptions:
        options = side_given_up(self.truncation_direction)
        if self.truncate:
            options["truncate_query"] = True
        return options | super().options()

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
    return rows.RowsResponse(tei_response(body, ranking), ranking, warnings_of(body, raw))


class TeiInfo(TypedDict):
    """What clients read of it: the model, that it is a reranker, and the limits of a request."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str


@router.get("/info", summary="TEI's", response_model=TeiInfo)
@router.get("/tei/info", summary="TEI's", response_model=TeiInfo)
async def info(raw: Request) -> Response:
    """The model and its limits, as a client of Text Embeddings Inference looks them up."""
    service = service_of(raw)
    length = service.plan.encoder.max_length
    response: TeiInfo = {
        "model_id": service.model,
        "model_sha": service.plan.config.revision,
        "model_dtype": str(service.runtime.facts().get("dtype", "")),
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": service.limits.waiting_documents,
        "max_input_length": length,
        "max_batch_tokens": length,
        "max_batch_requests": None,
        "max_client_batch_size": service.limits.documents,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
    }
    return JsonResponse(response)

"""The rerank API of vLLM, at the path that Text Embeddings Inference has claimed, too, and its score API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Discriminator, Tag

from whyrank.serving.compat.tei import TEI, TeiRequest, TeiRow
from whyrank.serving.compat.tei import rerank as rerank_tei
from whyrank.serving.compat.voyage import VOYAGE
from whyrank.serving.context import body_of
from whyrank.serving.examples import QUERY, RERANK, TEXTS, examples
from whyrank.serving.guarded_route import ErrorStyle, new_router
from whyrank.serving.native.errors import NativeError, native_error
from whyrank.serving.native.errors import style_of as voyages_style_of
from whyrank.serving.native.requests import NativeRequest
from whyrank.serving.native.rerank import IN_OPENAPI, RERANK_MODEL
from whyrank.serving.native.rerank import rerank as rerank_native
from whyrank.serving.native.score import ScoreResponse, score

__all__ = ["router"]

# vLLM's words, by status; those of its routes that have one.
_TYPES = {400: "BadRequestError", 404: "NotFoundError", 413: "BadRequestError", 500: "InternalServerError"}


def vllm_error(status: int, kind: str, message: str, request_id: str) -> NativeError:
    return native_error(status, _TYPES.get(status, kind), message, request_id)


VLLM = ErrorStyle(vllm_error, NativeError)


def style_of(request: Request) -> ErrorStyle | None:
    return TEI if body_of(request).get("texts") is not None else voyages_style_of(request)


router = new_router("Text Embeddings Inference and vLLM", VLLM, [TEI, VOYAGE], style_of)


def _tag(body: Any) -> str:
    return "tei" if isinstance(body, dict) and body.get("texts") is not None else "native"


BareRequest = Annotated[
    Annotated[TeiRequest, Tag("tei")] | Annotated[NativeRequest, Tag("native")],
    Discriminator(_tag),
]

_EXAMPLES = examples({"Text Embeddings Inference": {"query": QUERY, "texts": TEXTS}, "vLLM": RERANK})


@router.post("/rerank", summary="TEI's and vLLM's", response_model=list[TeiRow] | RERANK_MODEL, responses=IN_OPENAPI)
async def rerank(body: Annotated[BareRequest, _EXAMPLES], raw: Request) -> Response:
    """A body with `texts` is TEI's and answered as TEI does; any other is the same as at /v1/rerank."""
    return await (rerank_tei(body, raw) if isinstance(body, TeiRequest) else rerank_native(body, raw))


router.post("/score", summary="vLLM's", response_model=ScoreResponse)(score)

"""The rerank API of vLLM, at the path that Text Embeddings Inference has claimed, too. vLLM's /score is the native route."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Discriminator, Tag

from whyrank.serving.compat.rows import DETAIL
from whyrank.serving.compat.tei import TEI, TeiRequest, TeiRow
from whyrank.serving.compat.tei import rerank as rerank_tei
from whyrank.serving.examples import QUERY, RERANK, TEXTS, examples
from whyrank.serving.guarded_route import new_router
from whyrank.serving.native.errors import NATIVE
from whyrank.serving.native.requests import NativeRequest
from whyrank.serving.native.rerank import IN_OPENAPI, RERANK_MODEL
from whyrank.serving.native.rerank import rerank as rerank_native

__all__ = ["router"]

router = new_router("Text Embeddings Inference and vLLM", NATIVE, texts=TEI, top_k=DETAIL)


def _tag(body: Any) -> str:
    return "tei" if isinstance(body, dict) and "texts" in body else "native"


BareRequest = Annotated[
    Annotated[TeiRequest, Tag("tei")] | Annotated[NativeRequest, Tag("native")],
    Discriminator(_tag),
]

_EXAMPLES = examples({"Text Embeddings Inference": {"query": QUERY, "texts": TEXTS}, "vLLM": RERANK})


@router.post("/rerank", summary="TEI's and vLLM's", response_model=list[TeiRow] | RERANK_MODEL, responses=IN_OPENAPI)
async def rerank(body: Annotated[BareRequest, _EXAMPLES], raw: Request) -> Response:
    """A body with `texts` is TEI's and answered as TEI does; any other is the same as at /v1/rerank."""
    return await (rerank_tei(body, raw) if isinstance(body, TeiRequest) else rerank_native(body, raw))

"""The rerank API of vLLM, at the path that Text Embeddings Inference has claimed, too. vLLM's /score is the native route."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Request, Response
from pydantic import Discriminator, Tag

from whyrank.serving.compat.tei import TEI, TeiRequest, TeiRow
from whyrank.serving.compat.tei import rerank as rerank_tei
from whyrank.serving.compat.voyage import VOYAGE
from whyrank.serving.guarded_route import new_router
from whyrank.serving.native.errors import NATIVE
from whyrank.serving.native.protocol import NativeRequest
from whyrank.serving.native.rerank import RERANK_MODEL, RERANK_RESPONSE
from whyrank.serving.native.rerank import rerank as rerank_native

__all__ = ["router"]

router = new_router("Text Embeddings Inference and vLLM", NATIVE, texts=TEI, top_k=VOYAGE)


def _tag(body: Any) -> str:
    return "tei" if isinstance(body, dict) and "texts" in body else "native"


BareRequest = Annotated[
    Annotated[TeiRequest, Tag("tei")] | Annotated[NativeRequest, Tag("native")],
    Discriminator(_tag),
]

_QUERY = "At what temperature does water boil?"
_TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."]
_EXAMPLES = Body(
    openapi_examples={
        "Text Embeddings Inference": {"value": {"query": _QUERY, "texts": _TEXTS}},
        "vLLM": {"value": {"query": _QUERY, "documents": _TEXTS}},
    }
)


@router.post(
    "/rerank", summary="TEI's and vLLM's", response_model=list[TeiRow] | RERANK_MODEL, responses=RERANK_RESPONSE
)
async def rerank(body: Annotated[BareRequest, _EXAMPLES], raw: Request) -> Response:
    """A body with `texts` is TEI's and answered as TEI does; any other is the same as at /v1/rerank."""
    return await (rerank_tei(body, raw) if isinstance(body, TeiRequest) else rerank_native(body, raw))

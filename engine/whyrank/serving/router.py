"""All routers of the server."""

from __future__ import annotations

from whyrank.serving.compat import cohere, infinity, jina, tei, vllm, voyage, xinference
from whyrank.serving.native import models, pages, rerank, score, stream

__all__ = ["routers"]

routers = (
    rerank.router,
    stream.router,
    score.router,
    models.router,
    pages.router,
    vllm.router,
    cohere.router,
    jina.router,
    voyage.router,
    tei.router,
    infinity.router,
    xinference.router,
    pages.health,
)

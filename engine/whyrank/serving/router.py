"""All routers of the server."""

from __future__ import annotations

from whyrank.serving.compat import cohere, jina, tei, vllm, voyage
from whyrank.serving.native import pages, rerank, score, stream

__all__ = ["routers"]

routers = (
    rerank.router,
    stream.router,
    score.router,
    pages.router,
    vllm.router,
    cohere.router,
    jina.router,
    voyage.router,
    tei.router,
    pages.health,
)

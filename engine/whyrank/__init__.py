"""whyrank reranks documents and says why.

async with Reranker("Qwen/Qwen3-Reranker-0.6B") as reranker:
    ranking = await reranker.rerank(query, documents)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from whyrank.base import BaseReranker
from whyrank.config import EngineConfig
from whyrank.errors import (
    CheckpointError,
    EngineDead,
    EngineNotInstalled,
    EnginePaused,
    InvalidRequest,
    MixedModels,
    Overloaded,
    PermanentError,
    PromptFileError,
    RetryableError,
    Stopping,
    TooLarge,
    Unauthorized,
    Unreachable,
    WhyrankError,
)
from whyrank.events import EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.packing import Citation, Packed
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.types import (
    CheckedSentence,
    Document,
    DocumentError,
    Evidence,
    Grounding,
    RankedDocument,
    ScoredSpan,
    SourceSpan,
    Truncation,
    Unsupported,
    Usage,
    Window,
)

if TYPE_CHECKING:
    from whyrank.client import AsyncClient, Client, RetryPolicy
    from whyrank.reranker import Reranker

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BaseReranker",
    "CheckedSentence",
    "CheckpointError",
    "Citation",
    "Client",
    "Document",
    "DocumentError",
    "EngineConfig",
    "EngineDead",
    "EngineNotInstalled",
    "EnginePaused",
    "Evidence",
    "EvidenceDelta",
    "EvidenceDone",
    "Finished",
    "Grounding",
    "InvalidRequest",
    "MixedModels",
    "Overloaded",
    "Packed",
    "PermanentError",
    "PromptFileError",
    "Ranked",
    "RankedDocument",
    "Ranking",
    "RerankRequest",
    "Reranker",
    "RetryPolicy",
    "RetryableError",
    "Scored",
    "ScoredSpan",
    "SourceSpan",
    "Stopping",
    "TooLarge",
    "Truncation",
    "Unauthorized",
    "Unreachable",
    "Unsupported",
    "Usage",
    "WhyrankError",
    "Window",
]


_LATER = {
    "AsyncClient": "whyrank.client",
    "Client": "whyrank.client",
    "Reranker": "whyrank.reranker",
    "RetryPolicy": "whyrank.client",
}
"""Names whose modules take as long to import as all the rest together: imported when first used."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'whyrank' has no attribute {name!r}")

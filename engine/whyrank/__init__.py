"""whyrank reranks documents and says why.

async with Reranker("Qwen/Qwen3-Reranker-0.6B") as reranker:
    ranking = await reranker.rerank(query, documents)
"""

from whyrank.config import EngineConfig
from whyrank.errors import (
    CheckpointError,
    EngineDead,
    EngineNotInstalled,
    InvalidRequest,
    Overloaded,
    PermanentError,
    PromptFileError,
    RetryableError,
    TooLarge,
    Unauthorized,
    WhyrankError,
)
from whyrank.events import EvidenceDelta, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking
from whyrank.requests import RerankRequest
from whyrank.reranker import Reranker
from whyrank.types import (
    Document,
    DocumentError,
    Evidence,
    Grounding,
    RankedDocument,
    SourceSpan,
    Truncation,
    Unsupported,
    Usage,
    Window,
)

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Document",
    "DocumentError",
    "EngineConfig",
    "EngineDead",
    "EngineNotInstalled",
    "Evidence",
    "EvidenceDelta",
    "EvidenceDone",
    "Finished",
    "Grounding",
    "InvalidRequest",
    "Overloaded",
    "PermanentError",
    "PromptFileError",
    "Ranked",
    "RankedDocument",
    "Ranking",
    "RerankRequest",
    "Reranker",
    "RetryableError",
    "Scored",
    "SourceSpan",
    "TooLarge",
    "Truncation",
    "Unauthorized",
    "Unsupported",
    "Usage",
    "WhyrankError",
    "Window",
]

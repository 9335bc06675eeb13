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
    PermanentError,
    PromptFileError,
    RetryableError,
    WhyrankError,
)
from whyrank.reranker import Reranker
from whyrank.types import (
    Document,
    DocumentError,
    RankedDocument,
    Ranking,
    RerankRequest,
    Truncation,
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
    "InvalidRequest",
    "PermanentError",
    "PromptFileError",
    "RankedDocument",
    "Ranking",
    "RerankRequest",
    "Reranker",
    "RetryableError",
    "Truncation",
    "Usage",
    "WhyrankError",
    "Window",
]

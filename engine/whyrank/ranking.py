"""The answer to one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from whyrank.packing import Packed, pack, token_counter
from whyrank.types import RankedDocument, Usage

__all__ = ["Ranking"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one request. `results` is ordered best first; documents in error come last.

    `prompt` names the prompt file, its version, and an instruction of the caller's by a digest (see identity.py).
    `usage` counts everything; `evidence_usage` is the part that writing evidence took. `first_cut` is the first document of
    which only a part was read, even where top_n or min_score left it out of `results`; None over HTTP, whose server checks it.
    """

    results: tuple[RankedDocument, ...]
    usage: Usage
    model: str
    prompt: str
    evidence_usage: Usage = field(default_factory=Usage)
    first_cut: RankedDocument | None = field(default=None, compare=False, repr=False)

    @property
    def degraded(self) -> bool:
        """Whether time or the network cost a row its score or its evidence; `error` and `evidence.finish` say which."""
        return any(
            (row.error is not None and row.error.code in ("deadline", "unreachable"))
            or (row.evidence is not None and row.evidence.finish in ("aborted", "deadline", "error"))
            for row in self.results
        )

    def pack(self, max_tokens: int, tokenizer: Any) -> Packed:
        """The evidence as one context for an LLM, in at most so many of its tokens, with citation marks.

        `tokenizer`: anything with `encode` (Hugging Face, tiktoken), or a function that counts a text's tokens.
        """
        return pack(self.results, max_tokens, token_counter(tokenizer))

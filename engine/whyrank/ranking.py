"""The answer to one request, and the rules for its order, its cut-offs and which documents get evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from whyrank.packing import Packed, pack, token_counter
from whyrank.types import RankedDocument, Usage

__all__ = ["Ranking", "apply_cutoffs", "select_for_evidence", "sort_rows"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one request. `results` is ordered best first; documents in error come last.

    `prompt` names the prompt file, its version, and a caller's own instruction by a digest (see identity.py). `usage` counts
    everything; `evidence_usage` is the part for generating evidence. `first_cut` is the first document that was only partly
    read, even if top_n or min_score dropped it from `results`; None over HTTP, where the server checks it.
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
        """The evidence as one context for an LLM, in at most `max_tokens` of its tokens, with citation marks.

        `tokenizer`: anything with `encode` (Hugging Face, tiktoken), or a function that counts a text's tokens.
        """
        return pack(self.results, max_tokens, token_counter(tokenizer))


def sort_rows(rows: Iterable[RankedDocument]) -> list[RankedDocument]:
    """Largest margin first, ties in input order, documents without a margin last. Ranks start at 1."""
    ordered = sorted(rows, key=lambda row: (row.margin is None, -(row.margin or 0.0), row.index))
    return [
        row if row.margin is None or row.rank == place else replace(row, rank=place)
        for place, row in enumerate(ordered, 1)
    ]


def apply_cutoffs(
    rows: Iterable[RankedDocument], min_score: float | None, top_n: int | None
) -> tuple[RankedDocument, ...]:
    """The sorted rows that the caller requested. Documents in error are always included."""
    rows = list(rows)
    good = [row for row in rows if row.score is not None and row.score >= (min_score or 0.0)]
    return (*good[:top_n], *(row for row in rows if row.error))


def select_for_evidence(results: Iterable[RankedDocument], min_score: float, max_count: int) -> list[RankedDocument]:
    """The rows that get evidence, best first."""
    return [row for row in results if row.score is not None and row.score >= min_score][:max_count]

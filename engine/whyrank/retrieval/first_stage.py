"""One first stage or several over a BEIR folder, fused, as a TREC run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from whyrank.evaluation.trec import run_line
from whyrank.jsonl import write_file

__all__ = ["Found", "Searcher", "fused", "search_all", "write_run"]

Found = list[tuple[int, float]]
"""Places in the corpus and scores, best first."""

_RRF = 60
"""The constant of reciprocal rank fusion, as its authors chose it."""


class Searcher(Protocol):
    name: str

    def search(self, queries: Sequence[str], top_k: int) -> Iterator[Found]: ...


def fused(rankings: Sequence[Found], top_k: int) -> Found:
    """Reciprocal rank fusion: only ranks count. Of equal ones the earlier in the corpus comes first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (place, _) in enumerate(ranking, 1):
            scores[place] = scores.get(place, 0.0) + 1 / (_RRF + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:top_k]


def search_all(
    searchers: Sequence[Searcher], queries: Mapping[str, str], top_k: int, on_progress: Callable[[], None]
) -> Iterator[tuple[str, Found]]:
    """Each query's id with what was found; by several searchers fused."""
    results = (searcher.search(list(queries.values()), top_k) for searcher in searchers)
    for ident, *rankings in zip(queries, *results, strict=True):
        yield ident, fused(rankings, top_k) if len(rankings) > 1 else rankings[0]
        on_progress()


def write_run(path: Path, ids: Sequence[str], results: Iterator[tuple[str, Found]], tag: str) -> int:
    """How many documents it holds."""
    lines = [
        run_line(query, ids[place], rank, score, tag)
        for query, ranking in results
        for rank, (place, score) in enumerate(ranking, 1)
    ]
    write_file(path, lines)
    return len(lines)

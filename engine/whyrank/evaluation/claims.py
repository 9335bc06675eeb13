"""How well a model judges whether documents back claims: balanced accuracy on judged pairs, as LLM-AggreFact has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from whyrank.checkpoints import Plan
from whyrank.errors import DataError
from whyrank.evaluation.data import Claims
from whyrank.evaluation.results import RESULTS, read_results
from whyrank.pipeline.verifier import Verifier
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions
from whyrank.reranker import Reranker
from whyrank.types import Document
from whyrank.verifier import start_verifier

__all__ = ["ClaimsCard", "Judged", "make_claims_card", "open_judge"]


class _Judge:
    """Answers as verify "model" asks: the claim is the query, and all of the document is read."""

    def __init__(self, verifier: Verifier, plan: Plan) -> None:
        config = replace(plan.config, calibration=None)
        self._reranker = Reranker.from_runtime(verifier.runtime, verifier.encoder, config)
        self._instruction = verifier.instruction

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking:
        options |= {"instruction": self._instruction, "truncation": "windows"}
        return await self._reranker.rerank(query, documents, **options)


@asynccontextmanager
async def open_judge(plan: Plan) -> AsyncIterator[_Judge]:
    verifier = await start_verifier(plan)
    try:
        yield _Judge(verifier, plan)
    finally:
        await verifier.runtime.aclose()


@dataclass(frozen=True, slots=True)
class Judged:
    """Claims of one data set. `backed_found`, `unbacked_found`: of the backed and of the others, the share that is taken for
    what it is; None where there are none. A claim without a score counts as taken for not backed."""

    claims: int
    backed_found: float | None
    unbacked_found: float | None

    @property
    def balanced_accuracy(self) -> float | None:
        if self.backed_found is None or self.unbacked_found is None:
            return None
        return (self.backed_found + self.unbacked_found) / 2


@dataclass(frozen=True, slots=True)
class ClaimsCard:
    """`average`: the mean balanced accuracy of the data sets that have claims of both kinds."""

    model: str
    threshold: float
    data_sets: Mapping[str, Judged]
    average: float
    failed: int

    def document(self) -> dict[str, Any]:
        """For json.dumps."""
        sets = {
            name: asdict(judged) | {"balanced_accuracy": judged.balanced_accuracy}
            for name, judged in self.data_sets.items()
        }
        return asdict(self) | {"data_sets": sets}


def make_claims_card(folder: Path, claims: Claims, model: str, threshold: float) -> ClaimsCard:
    taken: dict[str, dict[bool, list[bool]]] = defaultdict(lambda: {True: [], False: []})
    failed = 0
    for result in read_results(folder / RESULTS):
        (row,), (grade,) = result.rows, result.judged.values()
        taken[claims.data_set(result.query)][grade > 0].append(row.score is not None and row.score >= threshold)
        failed += row.score is None
    sets = {name: _judged(kinds[True], kinds[False]) for name, kinds in sorted(taken.items())}
    accuracies = [value for judged in sets.values() if (value := judged.balanced_accuracy) is not None]
    if not accuracies:
        raise DataError(f"{claims.judgements}: contains claims of only one label; give both, 1 and 0")
    return ClaimsCard(model, threshold, sets, sum(accuracies) / len(accuracies), failed)


def _judged(backed: list[bool], unbacked: list[bool]) -> Judged:
    return Judged(
        len(backed) + len(unbacked),
        sum(backed) / len(backed) if backed else None,
        1 - sum(unbacked) / len(unbacked) if unbacked else None,
    )

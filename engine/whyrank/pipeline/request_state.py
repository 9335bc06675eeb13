"""The state of one request: the prompts that its documents need, and the results of each document so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from whyrank.calibration import Calibration
from whyrank.prompting.scoring import LabelRead, Score, ScoreRule, score_of
from whyrank.prompting.tokens import EncodedDocument, Ids, Prompt
from whyrank.ranking import apply_cutoffs, select_for_evidence, sort_rows
from whyrank.request import RerankRequest
from whyrank.types import DocumentError, Evidence, RankedDocument, ScoredSpan, Usage

__all__ = ["RequestState"]

_LATE = DocumentError("deadline", "not scored before the deadline: give more time or fewer documents")


class RequestState:
    """Documents that read the same share a prompt, and a document has several prompts where it is read in windows."""

    def __init__(self, request: RerankRequest, rule: ScoreRule, calibration: Calibration | None = None) -> None:
        self._request = request
        self._rule = rule
        self._calibration = calibration
        # Prompts are identified by numbers: hashing their ids means going through all of them.
        self._numbers: dict[Ids, int] = {}
        self._prompts: dict[int, list[tuple[int, Prompt]]] = {}
        self._readers: list[list[int]] = []
        self._reads: list[LabelRead | DocumentError | None] = []
        # A document that gets no result before the deadline keeps this error.
        self._rows = {i: RankedDocument(i, document, error=_LATE) for i, document in enumerate(request.documents)}
        self._best: dict[int, Prompt] = {}
        self._ranks: dict[int, int | None] = {}

    def add(
        self, first: int, encoded: Sequence[EncodedDocument | DocumentError]
    ) -> tuple[dict[int, Ids], list[RankedDocument]]:
        """Note the ids of the documents from number `first` on: the prompts that are new, by their numbers, and the rows that
        are known already."""
        new, rows = dict[int, Ids](), list[RankedDocument | None]()
        for index, row in enumerate(encoded, first):
            if isinstance(row, DocumentError):
                self._keep(replace(self._rows[index], error=row))
                continue
            if row.neutralised:
                self._keep(replace(self._rows[index], neutralised=True))
            self._prompts[index] = [(self._number(prompt.ids, index, new), prompt) for prompt in row.prompts]
            rows.append(self._finish(index))
        return new, [row for row in rows if row is not None]

    def _number(self, ids: Ids, reader: int, new: dict[int, Ids]) -> int:
        number = self._numbers.setdefault(ids, len(self._readers))
        if number == len(self._readers):
            new[number] = ids
            self._readers.append([])
            self._reads.append(None)
        if reader not in self._readers[number][-1:]:  # a document's windows may read the same
            self._readers[number].append(reader)
        return number

    def record(self, number: int, read: LabelRead | DocumentError) -> list[RankedDocument]:
        """Note the answer to a prompt; the rows of the documents that are fully read by it."""
        self._reads[number] = read
        return [row for index in self._readers[number] if (row := self._finish(index)) is not None]

    def _finish(self, index: int) -> RankedDocument | None:
        """A document is as good as its best window. One window that failed leaves the document without a score."""
        row, scored = self._rows[index], list[tuple[Score, Prompt]]()
        failed: tuple[DocumentError, Prompt] | None = None
        for number, prompt in self._prompts[index]:
            read = self._reads[number]
            if read is None:
                return None
            if isinstance(read, DocumentError):
                failed = failed or (read, prompt)
            else:
                scored.append((score_of(read, self._rule), prompt))
        if failed is not None:
            error, prompt = failed
            return self._keep(replace(row, truncation=prompt.truncation, error=error))
        best, prompt = max(scored, key=lambda pair: pair[0].margin)
        if not math.isfinite(best.margin):
            message = f"the model answered {best.margin}: its weights or dtype do not fit"
            return self._keep(replace(row, truncation=prompt.truncation, error=DocumentError("not_finite", message)))
        self._best[index] = prompt
        row = RankedDocument(  # three times as fast as replace()
            row.index,
            row.document,
            score=best.score,
            margin=best.margin,
            label_mass=best.label_mass,
            truncation=prompt.truncation,
            neutralised=row.neutralised,
        )
        return self._keep(self._calibration.score(row) if self._calibration else row)

    def _keep(self, row: RankedDocument) -> RankedDocument:
        self._rows[row.index] = row
        return row

    def add_evidence(self, index: int, evidence: Evidence) -> RankedDocument:
        """Add a document's evidence and return its row, with its rank: scoring is over by now."""
        return self._keep(replace(self._rows[index], rank=self._rank(index), evidence=evidence))

    def add_spans(self, index: int, spans: tuple[ScoredSpan, ...], limited: bool) -> RankedDocument:
        row = replace(self._rows[index], rank=self._rank(index), spans=spans, spans_limited=limited)
        return self._keep(row)

    def _rank(self, index: int) -> int | None:
        if not self._ranks:
            self._ranks = {row.index: row.rank for row in sort_rows(self._rows.values())}
        return self._ranks[index]

    def results(self) -> tuple[RankedDocument, ...]:
        """The rows within the request's cut-offs, best first."""
        return apply_cutoffs(sort_rows(self._rows.values()), self._request.min_score, self._request.top_n)

    def first_cut(self) -> RankedDocument | None:
        """The first document of which only a part was read, within the cut-offs or not."""
        cut = (row for row in self._rows.values() if row.truncation is not None and row.truncation.truncated)
        return next(cut, None)

    def chosen(self) -> list[RankedDocument]:
        """The documents that are explained, best first."""
        request = self._request
        return list(select_for_evidence(self.results(), request.evidence_min_score, request.evidence_top_n))

    def prompts_to_continue(self) -> dict[Ids, list[int]]:
        """Those of the chosen documents, best first, with the documents that each stands for."""
        prompts: dict[Ids, list[int]] = {}
        for row in self.chosen():
            prompts.setdefault(self._best[row.index].ids, []).append(row.index)
        return prompts

    def read_part(self, index: int) -> tuple[tuple[int, int], ...] | None:
        """The characters of a scored document that the model has read; None: all."""
        return self._best[index].read

    def usage(self) -> Usage:
        reads = (read for read in self._reads if isinstance(read, LabelRead))
        return sum((Usage(read.prompt_tokens, read.cached_tokens, 1) for read in reads), Usage())

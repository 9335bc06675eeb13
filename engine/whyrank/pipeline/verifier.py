"""Has a model judge the sentences that the comparison of words left unverified, all of a call in one batch.

The prompt's query is the sentence, and its document is the sentence's document. The model is not asked about altered
sentences: there the differing words are known, and a model that overlooks them proves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NamedTuple

from whyrank.errors import EngineDead, EnginePaused
from whyrank.fan_out import in_thread
from whyrank.grounding import ground
from whyrank.grounding.words import visible_length
from whyrank.pipeline.deadline import Deadline
from whyrank.pipeline.request_state import RequestState
from whyrank.pipeline.scorer import Scorer
from whyrank.prompting.rendering import prompt_identity
from whyrank.prompting.tokens import PromptEncoder
from whyrank.request import RerankRequest
from whyrank.runtimes.base import Runtime
from whyrank.types import Document, Evidence, Grounding, RankedDocument, Usage, Verification

__all__ = ["DEFAULT_THRESHOLD", "EvidenceVerifier", "Verifier"]

DEFAULT_THRESHOLD = 0.5
"""A sentence with at least this score counts as backed, unless a calibration has another threshold."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A running engine that judges claims: the one that also reranks, or a second one."""

    model: str
    runtime: Runtime
    encoder: PromptEncoder
    threshold: float = DEFAULT_THRESHOLD

    @property
    def instruction(self) -> str | None:
        return self.encoder.format.claim_instruction

    @property
    def prompt(self) -> str:
        return prompt_identity(self.encoder.format, self.instruction)


_Scores = dict[int, float | str]
"""Of the sentences of one text, by place; or why one has none."""

MakeScorer = Callable[[RerankRequest, Sequence[str]], Scorer]
"""Of a request for scores and a query for each of its documents."""


_Key = tuple[int, int]
"""A document, and which of its evidence: the first, or one of its variants."""


class _Claim(NamedTuple):
    """An unverified sentence, by its position in the evidence or the contribution of a document."""

    key: _Key
    of_contribution: bool
    place: int
    text: str


class EvidenceVerifier:
    def __init__(self, request: RerankRequest, verifier: Verifier, make_scorer: MakeScorer) -> None:
        """`make_scorer`: for the verifier's engine."""
        self._request, self._verifier, self._make_scorer = request, verifier, make_scorer
        self.usage = Usage()

    async def verify(self, written: Mapping[int, Evidence], deadline: Deadline) -> dict[int, Evidence]:
        """The evidence of these documents, with scores of its unverified sentences. If the deadline comes or the engine dies,
        the missing scores are reported in `Verification.error`."""
        # In a thread, because documents may be long.
        texts = {
            (index, place): one
            for index, evidence in written.items()
            for place, one in enumerate((evidence, *evidence.variants))
        }
        found = await deadline.wait(in_thread(self._with_contribution, texts.items()))
        checked = dict(zip(texts, texts.values() if found is None else found, strict=True))
        claims = [claim for key, evidence in checked.items() for claim in _open_claims(key, evidence)]
        scores = defaultdict[tuple[_Key, bool], _Scores](dict)
        for claim, score in zip(claims, await self._read(claims, deadline), strict=True):
            scores[claim.key, claim.of_contribution][claim.place] = score
        verified = {
            key: replace(
                evidence,
                grounding=self._with_scores(evidence.grounding, evidence.evidence, scores[key, False]),
                contribution_grounding=self._with_scores(
                    evidence.contribution_grounding, evidence.contribution, scores[key, True]
                ),
            )
            for key, evidence in checked.items()
        }
        return {
            index: replace(
                verified[index, 0],
                variants=tuple(verified[index, place] for place, _ in enumerate(evidence.variants, 1)),
            )
            for index, evidence in written.items()
        }

    def _with_contribution(self, written: tuple[_Key, Evidence]) -> Evidence:
        """Contributions are first compared with their documents word by word."""
        (index, _), evidence = written
        document = self._request.documents[index].content
        return replace(evidence, contribution_grounding=ground(evidence.contribution, document, self._request.query))

    async def _read(self, claims: Sequence[_Claim], deadline: Deadline) -> list[float | str]:
        """A score for each claim, or why it has none."""
        if not claims:
            return []
        documents = [Document(self._request.documents[claim.key[0]].content) for claim in claims]
        request = replace(
            self._request.to_score(documents),
            instruction=self._verifier.instruction,
            truncation="windows",  # what a sentence rests on may stand anywhere in a long document
            max_tokens_per_doc=None,
            max_tokens_per_query=None,
            max_prompt_tokens=None,
            truncate_query=False,  # half a claim is another claim
        )
        scorer = self._make_scorer(request, [claim.text for claim in claims])
        state = RequestState(request, self._verifier.encoder.format.score_rule)
        failure: str | None = None
        try:
            async with aclosing(scorer.read(state, deadline)) as rows:
                async for _ in rows:
                    pass
        except (EngineDead, EnginePaused) as cause:  # the evidence is there; only its verification is missing
            failure = f"{self._verifier.model}: {cause}"
        self.usage += state.usage() + scorer.warm_usage
        results = sorted(state.results(), key=lambda row: row.index)
        return [row.score if row.score is not None else failure or self._why_not(row) for row in results]

    def _why_not(self, row: RankedDocument) -> str:
        if row.error is None or row.error.code == "deadline":
            return "the deadline came before the verifier had judged all: give more time, or explain fewer documents"
        return f"{self._verifier.model}: {row.error.message}"

    def _with_scores(self, grounding: Grounding | None, text: str, scores: _Scores) -> Grounding | None:
        if grounding is None:
            return None
        sentences = tuple(
            replace(sentence, model_score=score) if isinstance(score := scores.get(place), float) else sentence
            for place, sentence in enumerate(grounding.sentences)
        )
        error = next((score for score in scores.values() if isinstance(score, str)), None)
        verification = Verification(self._verifier.model, self._verifier.prompt, self._verifier.threshold, error=error)
        verified = replace(grounding, sentences=sentences, verification=verification)
        backed = _share(verified, text)
        return replace(verified, verification=replace(verification, backed=backed))


def _open_claims(key: _Key, evidence: Evidence) -> Iterator[_Claim]:
    parts = ((evidence.evidence, evidence.grounding), (evidence.contribution, evidence.contribution_grounding))
    for of_contribution, (text, grounding) in enumerate(parts):
        for place, sentence in enumerate(grounding.sentences if grounding else ()):
            if sentence.verdict == "unverified":
                yield _Claim(key, bool(of_contribution), place, text[sentence.start : sentence.end])


def _share(grounding: Grounding, text: str) -> float:
    """The share of visible characters in sentences that the model considers backed."""
    sizes = [(one, visible_length(text[one.start : one.end])) for one in grounding.sentences]
    total = sum(size for _, size in sizes)
    return sum(size for one, size in sizes if grounding.is_backed(one)) / total if total else 0.0

"""Generates evidence: continues the chosen documents' prompts, and checks the result against each document's text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from whyrank.errors import EngineDead, EnginePaused, InvalidRequest
from whyrank.events import EvidenceDelta, EvidenceDone
from whyrank.fan_out import in_thread
from whyrank.grounding import ground
from whyrank.pipeline.deadline import Deadline
from whyrank.pipeline.request_state import RequestState
from whyrank.pipeline.verbatim import Quotable, quotable_sentences
from whyrank.pipeline.verifier import EvidenceVerifier
from whyrank.prompting.evidence import (
    SectionReader,
    WrittenSection,
    budgets,
    finish_of,
    grammar_budgets,
    max_new_tokens,
    opening_text,
    split_sections,
    tags_of,
    writing_grammar,
)
from whyrank.prompting.tokens import Ids, PromptEncoder
from whyrank.request import EvidenceStyle, RerankRequest
from whyrank.runtimes.base import Generation, GenerationParams, GenerativeRuntime, Runtime, TextDelta
from whyrank.types import Evidence, Finish, Grounding, Usage

if TYPE_CHECKING:
    from whyrank.prompting.formats import Continuation, SectionName

__all__ = ["EvidenceGenerator"]


class EvidenceGenerator:
    """Made before anything is scored, so that a request that cannot be written fails at once."""

    def __init__(
        self,
        request: RerankRequest,
        runtime: Runtime,
        encoder: PromptEncoder,
        live: bool,
        style: EvidenceStyle,
        verifier: EvidenceVerifier | None = None,
    ) -> None:
        """`style`: where the request names none."""
        if not isinstance(runtime, GenerativeRuntime):
            raise InvalidRequest("mode 'evidence': this route only scores; use mode 'score' or the generate route")
        requested: dict[SectionName, int | None] = {
            "contribution": request.max_contribution_tokens,
            "evidence": request.max_evidence_tokens,
        }
        self._budgets = budgets(encoder.format, requested)
        assert encoder.format.continuation is not None  # budgets() has checked it
        self._continuation: Continuation = encoder.format.continuation
        self._request, self._runtime, self._encoder, self._live = request, runtime, encoder, live
        self._style = request.evidence_style or style
        if request.evidence_samples > 1 and self._style == "verbatim":
            raise InvalidRequest(
                f"evidence_samples is {request.evidence_samples}: sentences of the document have no other wordings; give "
                "evidence_style 'rewrite', or leave evidence_samples out"
            )
        self._verifier = verifier
        self._opening = encoder.encode_frame(opening_text(self._continuation))
        self.usage = Usage()

    async def explain(
        self, state: RequestState, deadline: Deadline
    ) -> AsyncGenerator[EvidenceDelta | EvidenceDone, None]:
        """Deltas for live requests, and one EvidenceDone for every chosen document, finished or not. With a verifier these come
        once everything is written, because it judges all of it at once."""
        chosen = state.prompts_to_continue()
        quotable = await self._quotable(state, chosen) if self._style == "verbatim" else {}
        waiting = dict(enumerate(chosen.values()))
        readers = [SectionReader(self._continuation, self._budgets, self._encoder.decode) for _ in chosen]
        prompts = [ids + self._opening for ids in chosen]
        pieces = deadline.during(self._runtime.write(prompts, self._params(chosen, quotable)))
        unverified: dict[int, Evidence] = {}
        try:
            async with aclosing(pieces):
                async for place, piece in pieces:
                    if isinstance(piece, TextDelta):
                        for part, text in readers[place].feed(piece.text, piece.ids):
                            for index in waiting[place]:
                                yield EvidenceDelta(index, part, text)
                        continue
                    self.usage += piece.usage
                    for index in waiting.pop(place):
                        evidence = await self._with_variants(piece, index, quotable.get(index), deadline)
                        if self._verifier is None:
                            yield EvidenceDone(state.add_evidence(index, evidence))
                        else:
                            unverified[index] = evidence
            why_not: Finish = "aborted" if deadline.aborted else "deadline"
        except (EngineDead, EnginePaused):
            why_not = "error"
        if self._verifier is not None:
            for index, evidence in (await self._verifier.verify(unverified, deadline)).items():
                yield EvidenceDone(state.add_evidence(index, evidence))
            self.usage += self._verifier.usage
        for index in (index for indexes in waiting.values() for index in indexes):
            yield EvidenceDone(state.add_evidence(index, Evidence("", "", why_not)))

    async def _quotable(self, state: RequestState, chosen: Mapping[Ids, list[int]]) -> dict[int, Quotable]:
        """The sentences that may be quoted, of each chosen document."""
        forbidden = [*tags_of(self._continuation), *self._encoder.control_texts()]
        budget = self._budgets["evidence"]

        def fits(sentence: str) -> bool:
            return len(self._encoder.encode_frame(sentence)) <= budget

        def find(index: int) -> Quotable:
            document, query = self._request.documents[index], self._request.query
            return quotable_sentences(document, query, forbidden, fits, state.read_part(index))

        indexes = [index for same in chosen.values() for index in same]
        # In a thread, because documents may be long.
        return dict(zip(indexes, await in_thread(find, indexes), strict=True))

    def _params(self, chosen: Mapping[Ids, list[int]], quotable: Mapping[int, Quotable]) -> GenerationParams:
        """Documents that are quoted have a grammar each, all others the same one."""
        grammar = partial(writing_grammar, self._continuation, self._budgets, self._encoder.control_texts())
        if self._style == "verbatim":
            grammars = [grammar(quotable[index].grammar()) for index, *_ in chosen.values()]
        else:
            grammars = [grammar()] * len(chosen)
        return GenerationParams(
            grammars,
            max_new_tokens(grammar_budgets(self._continuation, self._budgets)),
            self._request.temperature,
            self._live,
            self._request.cache_salt,
            self._request.evidence_samples,
        )

    async def _with_variants(
        self, generation: Generation, index: int, quotable: Quotable | None, deadline: Deadline
    ) -> Evidence:
        """The first sample's evidence, with that of the others where it is worded differently."""
        first, *others = [
            await self._evidence(sample, index, quotable, deadline) for sample in (generation, *generation.others)
        ]
        known, variants = {"", _wording(first)}, list[Evidence]()
        for other in others:
            if _wording(other) not in known:
                known.add(_wording(other))
                variants.append(other)
        return replace(first, variants=tuple(variants))

    async def _evidence(
        self, generation: Generation, index: int, quotable: Quotable | None, deadline: Deadline
    ) -> Evidence:
        sections = split_sections(self._continuation, self._budgets, generation.ids, self._encoder.decode)
        texts = {section.name: section.text for section in sections}
        contribution, evidence = texts.get("contribution", "").strip(), texts.get("evidence", "").strip()
        grounding: Grounding | None
        if quotable is not None:
            evidence, grounding = quotable.quote(texts.get("evidence", ""))
        else:
            # In a thread, because a document may be long; what is not checked in time has no grounding.
            document = self._request.documents[index].content
            grounding = await deadline.wait(asyncio.to_thread(ground, evidence, document, self._request.query))
        return Evidence(contribution, evidence, _finish(generation, sections), len(generation.ids), grounding)


def _wording(evidence: Evidence) -> str:
    return " ".join(evidence.evidence.split())


def _finish(generation: Generation, sections: Sequence[WrittenSection]) -> Finish:
    match generation.reason:
        case "abort":
            return "aborted"
        case "error":
            return "error"
        case "stop" | "length":
            return finish_of(sections)

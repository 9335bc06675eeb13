"""Checks a served checkpoint: token ids against its tokenizer, scores against plain transformers, and the prefix cache.

texts.py    the texts that are checked
ids.py      token ids
parity.py   scores
engine.py   checkpoint, prompt and engine, and the prefix cache
report.py   what was found
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.doctor.engine import (
    cache_finding,
    check_cache,
    fact_findings,
    label_mass_findings,
    prompt_findings,
    quantization_findings,
)
from whyrank.doctor.ids import ids_finding, list_ids_finding
from whyrank.doctor.parity import list_parity, margin_tolerance, noise_of, parity_finding, recipe_findings
from whyrank.doctor.report import Finding, Report
from whyrank.doctor.texts import DOCUMENTS, PLAIN, QUERY, read_pairs
from whyrank.errors import PermanentError
from whyrank.label_choice import choose_labels
from whyrank.prompting.listwise import ListPrompts
from whyrank.prompting.tokens import Bounds
from whyrank.ranking import Ranking
from whyrank.request import RerankRequest
from whyrank.reranker import Reranker
from whyrank.runtimes import Runtime, start_runtime
from whyrank.types import Document, RankedDocument

__all__ = [
    "PLAIN",
    "Finding",
    "Report",
    "cache_finding",
    "examine",
    "examine_running",
    "ids_finding",
    "margin_tolerance",
    "read_pairs",
]


async def examine(config: EngineConfig, pairs: Sequence[RerankRequest] = ()) -> Report:
    """Start the engine, check it, stop it. Raises the errors of a start; anything wrong after that is a finding."""
    plan = await asyncio.to_thread(make_plan, config)
    runtime = await start_runtime(plan)
    try:
        runtime, plan = await choose_labels(runtime, plan)
    except BaseException:
        await runtime.aclose()
        raise
    return await examine_running(runtime, plan, pairs)


async def examine_running(runtime: Runtime, plan: Plan, pairs: Sequence[RerankRequest] = ()) -> Report:
    """Check a running engine, and stop it before the reference model is loaded. `pairs`: the user's own."""
    if not plan.format.runs:
        return await _examine_lists(runtime, plan)
    requests = [RerankRequest.of(QUERY, DOCUMENTS), *pairs]
    try:
        facts = runtime.facts()
        # No calibration: it changes no score, and may be for another instruction.
        reranker = Reranker.from_runtime(runtime, plan.encoder, replace(plan.config, calibration=None))
        cache = await check_cache(reranker, plan, facts)
        rankings = await reranker.rerank_many(requests)
        alone = [await reranker.rerank(QUERY, [text], cache_salt="alone") for text in DOCUMENTS]
    finally:
        await runtime.aclose()
    rows = [row for ranking in rankings for row in _rows(ranking)]
    noise = noise_of(rows, [row for ranking in alone for row in ranking.results])
    ids = await asyncio.to_thread(ids_finding, plan.encoder, pairs)
    parity = await asyncio.to_thread(parity_finding, plan, requests, rows, facts, noise)
    recipe = await asyncio.to_thread(recipe_findings, plan, rows, facts, noise)
    before = (*prompt_findings(plan), *fact_findings(plan, facts), *quantization_findings(plan, facts))
    return Report((*before, cache, ids, parity, *recipe, *label_mass_findings(rows)))


async def _examine_lists(runtime: Runtime, plan: Plan) -> Report:
    """For a prompt that only orders lists."""
    assert plan.format.listwise is not None  # it has no other prompt
    texts = DOCUMENTS[: plan.format.listwise.window]
    try:
        facts = runtime.facts()
        reranker = Reranker.from_runtime(runtime, plan.encoder, replace(plan.config, calibration=None))
        rows = await reranker.score(QUERY, texts, method="listwise")
    finally:
        await runtime.aclose()
    prompts = ListPrompts(plan.encoder, QUERY, [Document(text) for text in texts], None, Bounds(), len(texts))
    prompt = Finding("prompt", f"{plan.format.fingerprint}, {len(prompts.shared_prefix())} tokens before the query")
    errors = {row.error.message for row in rows if row.error}
    ranks = [row.rank for row in rows]
    order = Finding("order", "; ".join(errors) or f"the built-in texts have the ranks {ranks}", not errors)
    ids = await asyncio.to_thread(list_ids_finding, plan.encoder)
    parity = await asyncio.to_thread(list_parity, plan, prompts, rows, facts)
    return Report((prompt, *fact_findings(plan, facts), ids, order, *parity))


def _rows(ranking: Ranking | PermanentError) -> list[RankedDocument]:
    if isinstance(ranking, PermanentError):
        raise ranking
    return sorted(ranking.results, key=lambda row: row.index)

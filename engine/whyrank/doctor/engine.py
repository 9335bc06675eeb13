"""What is known of checkpoint, prompt and engine, and whether its prefix cache works."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from whyrank.checkpoints import Plan
from whyrank.doctor.report import Facts, Finding
from whyrank.doctor.texts import DOCUMENTS, QUERY
from whyrank.dtypes import choose_dtype
from whyrank.label_choice import choice_text
from whyrank.prompting.scoring import MIN_LABEL_MASS
from whyrank.prompting.tokens import EncodedDocument, common_prefix
from whyrank.reranker import Reranker
from whyrank.types import Document, RankedDocument, Usage

__all__ = [
    "cache_finding",
    "check_cache",
    "fact_findings",
    "label_mass_findings",
    "prompt_findings",
    "quantization_findings",
]


def fact_findings(plan: Plan, facts: Facts) -> list[Finding]:
    """What the engine says of itself."""
    why = {"dtype": f", {choose_dtype(plan, on_cpu=facts.get('device') == 'cpu').reason}"}
    return [Finding(name, f"{value}{why.get(name, '')}") for name, value in facts.items()]


def prompt_findings(plan: Plan) -> list[Finding]:
    encoder, labels = plan.encoder, plan.encoder.labels
    findings = [
        Finding(
            "checkpoint",
            ", ".join(plan.checkpoint.architectures) + (" (hybrid)" if plan.checkpoint.has_linear_attention else ""),
        ),
        Finding("prompt", f"{plan.format.fingerprint}, {len(encoder.shared_prefix(None))} tokens before the query"),
    ]
    if labels is not None:
        of_head = plan.route == "encoder"
        named = (f"class {i}" if of_head else f"{encoder.token_text(i)!r} = {i}" for i in labels.ids)
        findings.append(Finding("labels", ", ".join(named), good=True))
    if chosen := choice_text(plan):
        findings.append(Finding("chosen labels", chosen))
    return findings


def quantization_findings(plan: Plan, facts: Facts) -> list[Finding]:
    """What is quantised, what is not, and how precise the logits are."""
    quantization = plan.checkpoint.quantization
    if quantization is None:
        return []
    coarse = f"computed in {facts.get('head_dtype', facts['dtype'])}: logits are coarse, which may cause ties"
    if quantization.has_head:
        head = f"quantised like the other layers, and {coarse}"
    elif "float32" in (facts.get("head_dtype"), facts.get("label_dtype")):
        head = "not quantised; its logits are computed in float32"
    else:
        head = f"not quantised, but {coarse}"
    return [Finding("quantised", str(quantization)), Finding("head", head)]


async def check_cache(reranker: Reranker, plan: Plan, facts: Facts) -> Finding:
    documents = [f"Note {number}. {DOCUMENTS[number % 2]}" for number in range(32)]
    cold = (await reranker.rerank(QUERY, documents)).usage
    warm = (await reranker.rerank(QUERY, documents)).usage
    rows = plan.encoder.encode(QUERY, [Document(text) for text in documents], None, "tail")
    shared = common_prefix([row.prompts[0].ids for row in rows if isinstance(row, EncodedDocument)])
    return cache_finding(cold, warm, len(shared), facts)


def cache_finding(cold: Usage, warm: Usage, shared: int, facts: Facts) -> Finding:
    """Judges two consecutive calls whose prompts share their first `shared` tokens."""
    value = f"{_share(cold)} of prompt tokens from the cache cold, {_share(warm)} warm"
    if cold.cached_tokens:
        return Finding("cache", value, good=True)
    block = facts.get("prefix_match_unit")
    if not isinstance(block, int):
        return Finding("cache", f"{value} — this route has no prefix cache")
    if shared < block:
        why = f"the documents share their first {shared} tokens, a block has {block}: too short to be shared"
        return Finding("cache", f"{value} — {why}")
    state = "off" if facts.get("prefix_caching") == "off" else "full, or does not work"
    why = f"the documents share {shared} tokens, blocks of {block} should have hit: the engine's cache is {state}"
    return Finding("cache", f"{value} — {why}", good=False)


def _share(usage: Usage) -> str:
    return f"{usage.cached_tokens / max(1, usage.prompt_tokens):.0%}"


def label_mass_findings(rows: Sequence[RankedDocument]) -> list[Finding]:
    masses = [row.label_mass for row in rows if row.label_mass is not None]
    if not masses:
        return []
    middle = median(masses)
    return [
        Finding("label mass", f"{middle:.4f} of the probability is on the labels (median)", middle >= MIN_LABEL_MASS)
    ]

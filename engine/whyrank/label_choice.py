"""Finds the spelling of yes and no that a chat model answers with, from its first answers after its engine has started."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from statistics import fmean

from whyrank.checkpoints import Plan
from whyrank.errors import CheckpointError
from whyrank.prompting.formats import PromptFormat
from whyrank.prompting.scoring import LabelRead, score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.runtimes.base import Runtime
from whyrank.types import Document

__all__ = ["PAIRS", "choice_text", "choose_labels"]

PAIRS = (
    ("What is the capital of France?", "Paris is the capital and largest city of France."),
    ("What is the capital of France?", "Bread rises because yeast turns sugar into gas."),
    ("boiling point of water", "Water boils at 100 °C at sea level."),
    ("boiling point of water", "The library is open on weekdays from nine to five."),
)


async def choose_labels(runtime: Runtime, plan: Plan) -> tuple[Runtime, Plan]:
    """The plan's choice whose labels get most of the probability, and a runtime that reads them."""
    if len(plan.choices) < 2:
        return runtime, plan
    from whyrank.runtimes.generate import GenerateRuntime

    assert isinstance(runtime, GenerateRuntime)  # the only route of formats with choices
    plans = [plan.with_choice(fmt) for fmt in plan.choices]
    masses = [await _label_mass(GenerateRuntime(runtime.engine, one), one) for one in plans]
    chosen = replace(plans[masses.index(max(masses))], label_masses=tuple(masses))
    chosen.check_calibration()
    return GenerateRuntime(runtime.engine, chosen), chosen


async def _label_mass(runtime: Runtime, plan: Plan) -> float:
    rows = [row for query, text in PAIRS for row in plan.encoder.encode(query, [Document(text)], None, "tail")]
    prompts = [row.prompts[0].ids for row in rows if isinstance(row, EncodedDocument)]
    masses = list[float]()
    async with aclosing(runtime.read(prompts, [0] * len(prompts), None)) as batches:
        async for answers in batches:
            for _, read in answers:
                if not isinstance(read, LabelRead):
                    raise CheckpointError(
                        f"{plan.config.model}: the labels of a built-in pair cannot be read: {read.message}"
                    )
                masses.append(score_of(read, plan.format.score_rule).label_mass or 0.0)
    return fmean(masses)


def choice_text(plan: Plan) -> str | None:
    """The chosen labels, and the probability of the others; None if there was only one choice."""
    if not plan.label_masses:
        return None
    shown = [f"{_names(plan, fmt)} {mass:.2f}" for fmt, mass in zip(plan.choices, plan.label_masses, strict=True)]
    return f"{_names(plan, plan.format)}, which got most of the probability on built-in pairs ({', '.join(shown)})"


def _names(plan: Plan, fmt: PromptFormat) -> str:
    assert fmt.labels is not None  # choices differ in them
    labels = (fmt.labels.positive, *fmt.labels.between, fmt.labels.negative)
    return "/".join(repr(plan.encoder.token_text(one)) if isinstance(one, int) else repr(one) for one in labels)

"""Starts the second checkpoint that judges evidence for verify "model"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from whyrank.calibration import read_calibration
from whyrank.canary import canary_margin
from whyrank.checkpoints import Plan
from whyrank.label_choice import choose_labels
from whyrank.pipeline.verifier import DEFAULT_THRESHOLD, Verifier
from whyrank.prompting.rendering import prompt_identity
from whyrank.prompting.scoring import LabelRead, score_of
from whyrank.reranker import Reranker
from whyrank.runtimes import start_runtime

__all__ = ["start_verifier", "threshold_of"]


async def start_verifier(plan: Plan) -> Verifier:
    """Its owner closes the runtime."""
    threshold = threshold_of(plan)
    runtime = await start_runtime(plan)
    try:
        runtime, plan = await choose_labels(runtime, plan)
        bare = replace(plan.config, calibration=None)
        await canary_margin(Reranker.from_runtime(runtime, plan.encoder, bare), plan.config.model)
        return Verifier(plan.config.model, runtime, plan.encoder, threshold)
    except BaseException:
        await runtime.aclose()
        raise


def threshold_of(plan: Plan) -> float:
    """The score from which on a sentence counts as backed: the calibration's, which must be of the same prompt."""
    if plan.config.calibration is None:
        return DEFAULT_THRESHOLD
    calibration = read_calibration(Path(plan.config.calibration))
    prompts = [prompt_identity(fmt, fmt.claim_instruction) for fmt in plan.choices]
    calibration.check_instruction(next(filter(calibration.fits_instruction, prompts), prompts[0]))
    if calibration.threshold is None:
        return DEFAULT_THRESHOLD
    return score_of(LabelRead(calibration.threshold), plan.format.score_rule).score

"""Starts the second checkpoint that judges evidence for verify "model"."""

from __future__ import annotations

from pathlib import Path

from whyrank.calibration import read_calibration
from whyrank.checkpoints import Plan
from whyrank.pipeline.verifier import DEFAULT_THRESHOLD, Verifier
from whyrank.prompting.rendering import prompt_identity
from whyrank.prompting.scoring import LabelRead, score_of
from whyrank.start import start_checked

__all__ = ["start_verifier", "threshold_of"]


async def start_verifier(plan: Plan) -> Verifier:
    """Its owner closes the runtime."""
    threshold = threshold_of(plan)
    started = await start_checked(plan)
    return Verifier(plan.config.model, started.runtime, started.plan.encoder, threshold)


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

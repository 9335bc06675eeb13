"""Starts a plan's engine and checks it with the canary: for the in-process Reranker, the verifier and Ray's replicas."""

from __future__ import annotations

from dataclasses import dataclass, replace

from whyrank.canary import canary_margin
from whyrank.checkpoints import Plan
from whyrank.label_choice import choose_labels
from whyrank.reranker import Reranker
from whyrank.runtimes import start_runtime
from whyrank.runtimes.base import Runtime

__all__ = ["Started", "start_checked"]


@dataclass(frozen=True, slots=True)
class Started:
    """`uncalibrated` reranks on the engine, which the owner of `runtime` closes. `margin`: that of the canary's pair."""

    runtime: Runtime
    plan: Plan
    uncalibrated: Reranker
    margin: float | None


async def start_checked(plan: Plan) -> Started:
    """Raises CheckpointError if the checkpoint gives no usable scores; the engine is closed then."""
    runtime = await start_runtime(plan)
    try:
        runtime, plan = await choose_labels(runtime, plan)
        reranker = Reranker.from_runtime(runtime, plan.encoder, replace(plan.config, calibration=None))
        margin = await canary_margin(reranker, plan.config.model, plan.format.methods[0])
        return Started(runtime, plan, reranker, margin)
    except BaseException:
        await runtime.aclose()
        raise

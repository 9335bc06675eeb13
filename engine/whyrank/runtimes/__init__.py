"""Engines behind one small Protocol: prompts of ids in, label reads out.

base.py      the Protocol
vllm_engine.py   what the two vLLM routes have in common: start, submit, abort, errors
generate.py  causal models, label log-probabilities at the answer position
classify.py  vLLM's pooling runner, one logit from a head
encoder.py   plain transformers: DeBERTa, checkpoints with their own code
reference.py plain transformers again, one prompt at a time: what everything is held against
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whyrank.runtimes.base import Runtime

if TYPE_CHECKING:
    from whyrank.checkpoints import Plan

__all__ = ["Runtime", "start_runtime"]


async def start_runtime(plan: Plan) -> Runtime:
    """Start the engine for a plan's route. Heavy packages are imported here and not before."""
    match plan.route:
        case "generate":
            from whyrank.runtimes.generate import GenerateRuntime

            return await GenerateRuntime.start(plan)
        case "classify":
            from whyrank.runtimes.classify import ClassifyRuntime

            return await ClassifyRuntime.start(plan)
        case "encoder":
            from whyrank.runtimes.encoder import EncoderRuntime

            return await EncoderRuntime.start(plan)

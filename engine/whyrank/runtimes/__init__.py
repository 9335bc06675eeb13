"""Engines behind one small Protocol: prompts as token ids in, label reads out.

base.py            the Protocol
engine_options.py  vLLM's engine arguments for a plan
vllm_engine.py     what the two vLLM routes share: start, submit, abort, errors
ranks.py           which of vLLM's parallel engines reads a slice of prompts, and which one has read a prompt
generate.py        causal models, label log-probabilities at the answer position
classify.py        vLLM's pooling runner, one logit from a head
encoder.py         plain transformers: DeBERTa, checkpoints with their own code
reference.py       plain transformers, one prompt at a time: the reference values for all engines
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whyrank.runtimes.base import Runtime

if TYPE_CHECKING:
    from whyrank.checkpoints import Plan

__all__ = ["Runtime", "start_runtime"]


async def start_runtime(plan: Plan) -> Runtime:
    """Start the engine for a plan's route. Heavy packages are imported only here."""
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

"""Chooses the dtype that a model computes in, with the reason, if the user gives none."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from whyrank.checkpoints import Plan

__all__ = ["Choice", "bfloat16_instructions", "choose_dtype", "choose_dtype_for_cpu"]


class Choice(NamedTuple):
    """`dtype`: as vLLM and transformers take it; on a GPU it may be "auto". `reason`: for people, after the dtype's name."""

    dtype: str
    reason: str


def choose_dtype(plan: Plan, on_cpu: bool) -> Choice:
    if plan.config.dtype != "auto":
        return Choice(plan.config.dtype, "as --dtype says")
    if not on_cpu:
        if plan.checkpoint.stored_dtype == "float32" and plan.route != "encoder":
            # vLLM would halve it by itself; a classifier's to float16, in which large activations overflow.
            return Choice("bfloat16", "since the checkpoint is in float32, which is slow on a GPU")
        return Choice("auto", "chosen for this checkpoint")
    return choose_dtype_for_cpu(plan, bfloat16_instructions())


def choose_dtype_for_cpu(plan: Plan, instructions: str | None) -> Choice:
    """`instructions`: the processor's instructions to multiply bfloat16, if it has any; without them bfloat16 is slower than
    float32. Only weights stored in bfloat16 are exact in it: those in float32 or float16 would be rounded, and published
    scores were not measured with rounded weights."""
    checkpoint = plan.checkpoint
    if plan.route == "encoder":
        return Choice("float32", "as encoders on a CPU always are")
    if checkpoint.has_linear_attention:
        return Choice("bfloat16", "the only one of this model's CPU kernels")
    if checkpoint.quantization is not None and not checkpoint.quantization.takes_float32:
        dtype = "float16" if checkpoint.stored_dtype == "float16" else "bfloat16"
        return Choice(dtype, f"since vLLM computes layers in {checkpoint.quantization.method} in 16 bits only")
    if checkpoint.stored_dtype != "bfloat16":
        stored = f"is in {checkpoint.stored_dtype}" if checkpoint.stored_dtype else "names no dtype"
        return Choice("float32", f"since the checkpoint {stored}")
    if instructions is None:
        return Choice("float32", "the best on a CPU without AMX-BF16 and AVX512-BF16")
    return Choice("bfloat16", f"the checkpoint's own, for which this CPU has {instructions}")


@cache
def bfloat16_instructions() -> str | None:
    import torch

    capabilities = torch.cpu.get_capabilities()
    return next(
        (name for name in ("AMX-BF16", "AVX512-BF16") if capabilities.get(name.lower().replace("-", "_"))), None
    )

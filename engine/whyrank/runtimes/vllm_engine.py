"""What the two vLLM routes share: starting the engine, submitting prompts, and mapping vLLM's errors to ours."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import multiprocessing
import os
import secrets
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from copy import copy
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar

from whyrank.checkpoints import Plan
from whyrank.config import EngineConfig
from whyrank.dtypes import choose_dtype
from whyrank.engine_process import EngineErrors, first_line
from whyrank.errors import CheckpointError, EngineDead, EnginePaused, InvalidRequest
from whyrank.fan_out import as_completed
from whyrank.options import options_of
from whyrank.process import (
    START_METHOD,
    environment_restored,
    has_cuda_compiler,
    is_cpu_build,
    set_engine_environment,
)
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids, common_prefix
from whyrank.quantization import REMEDY, Quantization
from whyrank.quantize import has_amx, int8_instructions
from whyrank.runtimes.base import Answer
from whyrank.runtimes.cpu_kernels import LABEL_IDS, PROVIDER, norm_priorities, register_cpu_kernels
from whyrank.runtimes.ranks import Ranks, Readers
from whyrank.runtimes.vllm_compat import (
    CUDA_BEFORE_FORK,
    GPU_TOO_FULL,
    OUT_OF_MEMORY,
    PROMPT_LARGER_THAN_CACHE,
    QUANTIZED_HEAD,
    TOO_FEW_STATES,
    Batch,
    api_process,
    can_batch,
    parallel_engines,
    require_device,
    trace_headers,
    vllm_name,
    warn_of_versions,
)
from whyrank.types import DocumentError, Usage

__all__ = ["MATCH_UNIT", "SHARE_BESIDE_OTHERS", "Refused", "VllmRuntime", "remark_of_quantised", "start_error_text"]

# Prompts of one call that the engine holds: enough to fill its batches; even a huge call leaves memory to others.
_MAX_CONCURRENCY = 1024
# Prompts submitted before other tasks on the event loop get a turn: two milliseconds.
_SUBMITTED_AT_ONCE = 32
_GIB = 1 << 30
MATCH_UNIT = 16
"""Hybrids store their state once a request; hits are possible every so many tokens. Divides every real block size."""
# Fewer prompts than this are not worth the extra step that it takes to warm their query.
_MIN_PROMPTS_TO_WARM = 8
_MAX_WARMED_FRAMES = 1024
SHARE_BESIDE_OTHERS = 0.01
"""`gpu_memory_utilization` where the cache's size is given."""
# On a CPU: a block of the prefix cache, and how many tokens it holds at most unless the user says otherwise.
_BLOCK, _CACHED_TOKENS = 32, 1 << 16
# Batch sizes for which vLLM records CUDA graphs at the start, in place of its 51. Small calls and continuations run in them,
# padded to the next size; most steps of a reranker are larger than the largest and need none.
_CAPTURE_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512]
# Engine arguments with which a user decides on those sizes in another way; vLLM refuses both together.
_DECIDE_CAPTURE_SIZES = {"compilation_config", "max_cudagraph_capture_size"}
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


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Reading(Generic[R]):
    """What is read of prompts. `params`: the engine's parameters, the same object for every prompt. `result`: the value in its
    output."""

    params: Any
    result: Callable[[Any], R | DocumentError]


class Refused(Exception):
    """The engine refused or failed one prompt; others are not affected."""


class VllmRuntime(ABC):
    """A vLLM engine client: of an engine process of our own, or of the `vllm serve` process we run in.

    Where vLLM runs several engines in parallel, this stands for all of them, and `engines` has one like it for each. They have
    their own prefix caches, so the prompts of a slice are read by one of them: `choose` says by which."""

    label_params: Any
    """The engine's parameters for reading the labels."""

    def __init__(self, engine: Any, plan: Plan) -> None:
        self.engine = engine
        self.plan = plan
        self._name, self._request_numbers = f"whyrank-{secrets.token_hex(8)}", itertools.count()
        self._has_priorities = engine.vllm_config.scheduler_config.policy == "priority"
        self._can_batch = can_batch(engine)
        self._needs_warming = plan.checkpoint.has_linear_attention and _matches_within_blocks(
            engine.vllm_config.cache_config
        )
        self._warmed_frames: set[tuple[str | None, Ids]] = set()
        self._adapter: Any = None
        self._rank: int | None = None
        self._engines: Sequence[Self] = ()
        self._ranks = Ranks(parallel_engines(engine.vllm_config), *api_process(engine.vllm_config))
        self._readers = Readers[int]()
        self._is_traced = engine.vllm_config.observability_config.otlp_traces_endpoint is not None

    def with_adapter(self, adapter: Any) -> Self:
        """The same engine with a LoRA adapter, a LoRARequest of vLLM, which keeps its part of the prefix cache apart."""
        engines = [one._copy(one._rank, adapter) for one in self.engines]
        if len(engines) == 1:
            return engines[0]
        runtime = self._copy(None, adapter)
        runtime._engines = engines
        return runtime

    @property
    def engines(self) -> Sequence[Self]:
        if not self._engines:
            count = 1 if self._rank is not None else parallel_engines(self.engine.vllm_config)
            self._engines = [self._copy(rank, self._adapter) for rank in range(count)] if count > 1 else [self]
        return self._engines

    def choose(self) -> Self:
        return self if len(self.engines) == 1 else self.engines[self._ranks.choose()]

    def _copy(self, rank: int | None, adapter: Any) -> Self:
        runtime = copy(self)
        runtime._rank, runtime._adapter, runtime._engines, runtime._warmed_frames = rank, adapter, (), set()
        return runtime

    @classmethod
    async def start(cls, plan: Plan) -> Self:
        """Start an engine process of our own. This blocks the event loop, because vLLM binds its sockets to it."""
        _require_main_guard()
        with environment_restored():
            # The process's stdout belongs to the user.
            os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
            set_engine_environment(is_cpu_build())
            # The user's process may have used CUDA, and then a copy of it cannot. prepare_process says where that is not so.
            os.environ.setdefault(START_METHOD, "spawn")
            await asyncio.to_thread(_import_vllm)
            options = cls.engine_options(plan, on_cpu=vllm_name("current_platform").is_cpu())
            try:
                engine = _start_engine(options)
            except (ValueError, RuntimeError, AssertionError) as cause:
                raise CheckpointError(
                    f"model {plan.config.model!r}: vLLM cannot serve it: {start_error_text(cause)}{remark_of_quantised(plan)}"
                ) from cause
        return cls(engine, plan)

    @classmethod
    def engine_options(cls, plan: Plan, on_cpu: bool) -> dict[str, Any]:
        """vLLM's engine arguments for this plan."""
        ours, theirs = {**_common_options(plan, on_cpu), **cls._options(plan, on_cpu)}, plan.config.engine_options
        if "ir_op_priority" in theirs.get("kernel_config", {}):
            del ours["ir_op_priority"]  # vLLM takes it in one of the two places
        if _DECIDE_CAPTURE_SIZES & theirs.keys():
            ours.pop("cudagraph_capture_sizes", None)
        overrides = {**ours.get("hf_overrides", {}), **theirs.get("hf_overrides", {})}
        return {**ours, **theirs, **({"hf_overrides": overrides} if overrides else {})}

    @classmethod
    @abstractmethod
    def _options(cls, plan: Plan, on_cpu: bool) -> dict[str, Any]:
        """Engine arguments of this route, merged over the common ones."""

    @abstractmethod
    def _submit(self, prompt: Any, params: Any, request_id: str, priority: int) -> AsyncGenerator[Any, None]:
        """Submit one prompt to the engine."""

    @abstractmethod
    def _label_read(self, output: Any) -> LabelRead | DocumentError:
        """The labels' values in the engine's output."""

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        """Full attention shares blocks even within one batch: nothing to do. For hybrids a hit is possible only where an
        earlier request ended. So one request ends with the frame, once for all calls, the next with the query, and the
        documents then start there. Each is one token longer than what it shares: the last token is always computed anew.
        Of several engines only the one that reads the prompts is warmed."""
        if not self._needs_warming or not prompts or len(self.engines) > 1:
            return Usage()
        usage = Usage()
        if (salt, frame) not in self._warmed_frames and len(frame) >= MATCH_UNIT:
            usage += await self._warm_one(prompts[0][: len(frame) + 1], salt)
            if len(self._warmed_frames) >= _MAX_WARMED_FRAMES:
                self._warmed_frames.clear()
            self._warmed_frames.add((salt, frame))
        if len(prompts) >= _MIN_PROMPTS_TO_WARM:
            usage += await self._warm_one(prompts[0][: len(common_prefix(prompts)) + 1], salt)
        return usage

    async def _warm_one(self, ids: Ids, salt: str | None) -> Usage:
        reading = Reading(self.label_params, _usage_of)
        batch = await self._open_batch(reading, [ids], salt)
        if batch is None:
            reads = [await self._read_one(reading, ids, 0, salt)]
        else:
            reads = [read async for some in self._read_batch(reading, batch, [ids], [0]) for _, read in some]
        return sum((read for read in reads if isinstance(read, Usage)), Usage())

    def _forget_frames(self, answers: Sequence[Answer], salt: str | None) -> None:
        """If a hybrid's prompt finds nothing in the cache, its frame has been evicted: it is warmed again next time."""
        if any(isinstance(read, LabelRead) and not read.cached_tokens for _, read in answers):
            self._warmed_frames = {(of, frame) for of, frame in self._warmed_frames if of != salt}

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        if self._rank is not None:
            self._readers.remember(prompts, self._rank)
        answers = self._read_all(Reading(self.label_params, self._label_read), prompts, priorities, salt)
        with self._working(prompts):
            async with aclosing(answers):
                async for some in answers:
                    if self._warmed_frames:
                        self._forget_frames(some, salt)
                    yield some

    @contextmanager
    def _working(self, prompts: Sequence[Ids]) -> Iterator[None]:
        """While this engine of several has these prompts, others are chosen."""
        if self._rank is None:
            yield
            return
        with self._ranks.working(self._rank, sum(map(len, prompts))):
            yield

    async def _read_all(
        self, reading: Reading[R], prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[tuple[int, R | DocumentError]], None]:
        batch = await self._open_batch(reading, prompts, salt)
        answers = self._read_one_by_one(reading, prompts, priorities, salt)
        if batch is not None:
            batched = self._read_batch(reading, batch, prompts, priorities)  # by itself: mypy infers its type from that
            answers = batched
        async with aclosing(answers):
            async for some in answers:
                yield some

    async def _open_batch(self, reading: Reading[R], prompts: Sequence[Ids], salt: str | None) -> Batch | None:
        """None if the engine does not support batches, or would refuse one of the prompts."""
        if not prompts or not self._can_batch:
            return None
        longest = max(prompts, key=len)
        try:
            prompt = vllm_name("tokens_input")(list(longest), cache_salt=salt)
            return await Batch.of(
                self.engine, prompt, reading.params, data_parallel_rank=self._rank, **self._request_arguments()
            )
        except (vllm_name("VLLMError"), ValueError):
            return None

    def _request_arguments(self) -> dict[str, Any]:
        """What all requests of a call have in common, for vLLM's functions that take requests."""
        return {"lora_request": self._adapter, "trace_headers": trace_headers() if self._is_traced else None}

    async def _read_batch(
        self, reading: Reading[R], batch: Batch, prompts: Sequence[Ids], priorities: Sequence[int]
    ) -> AsyncGenerator[Sequence[tuple[int, R | DocumentError]], None]:
        waiting = deque(range(len(prompts)))
        try:
            while waiting or batch.unfinished:
                answers: list[tuple[int, R | DocumentError]] = []
                while waiting and batch.unfinished < _MAX_CONCURRENCY:
                    place = waiting.popleft()
                    try:
                        await batch.submit(place, self._new_id(), prompts[place], self._priority(priorities[place]))
                    except (vllm_name("VLLMError"), ValueError) as cause:
                        answers.append((place, _document_error(cause)))
                    if place % _SUBMITTED_AT_ONCE == _SUBMITTED_AT_ONCE - 1:
                        await asyncio.sleep(0)
                if not answers:
                    answers = [
                        (place, _document_error(out) if isinstance(out, Exception) else reading.result(out))
                        for place, out in await batch.outputs()
                    ]
                yield answers
        finally:
            await batch.close()

    async def _read_one_by_one(
        self, reading: Reading[R], prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[tuple[int, R | DocumentError]], None]:
        async def read_one(place: int) -> R | DocumentError:
            return await self._read_one(reading, prompts[place], priorities[place], salt)

        async with aclosing(as_completed(read_one, len(prompts), _MAX_CONCURRENCY)) as answers:
            async for answer in answers:
                yield [answer]

    async def _read_one(self, reading: Reading[R], ids: Ids, priority: int, salt: str | None) -> R | DocumentError:
        try:
            async for output in self._outputs(ids, reading.params, priority, salt):
                last = output
        except Refused as refusal:
            return DocumentError("engine", f"the engine refused this document: {refusal}")
        return reading.result(last)

    async def _outputs(self, ids: Ids, params: Any, priority: int, salt: str | None) -> AsyncGenerator[Any, None]:
        """The engine's outputs for one prompt, with its errors mapped to ours."""
        request_id = self._new_id()
        prompt = vllm_name("tokens_input")(list(ids), cache_salt=salt)
        try:
            async with aclosing(self._submit(prompt, params, request_id, self._priority(priority))) as outputs:
                async for output in outputs:
                    yield output
        except (vllm_name("VLLMError"), ValueError) as cause:
            if isinstance(cause, vllm_name("EngineDeadError")):
                await self.engine.abort(request_id)  # removes the request in this process; the engine is gone
            raise _failure(cause) from cause

    def _new_id(self) -> str:
        return f"{self._name}-{next(self._request_numbers)}"

    def _priority(self, priority: int) -> int:
        # An engine that we did not start may use first come, first served scheduling, which refuses priorities.
        return priority if self._has_priorities else 0

    def facts(self) -> dict[str, str | int]:
        config = self.engine.vllm_config
        formats = {"quantization": config.model_config.quantization, "kv_cache_dtype": config.cache_config.cache_dtype}
        return {
            "engine": f"vLLM {importlib.import_module('vllm').__version__}, route {self.plan.route}",
            "device": str(config.device_config.device_type),
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "head_dtype": str(config.model_config.head_dtype).removeprefix("torch."),
            **_cpu_facts(config),
            **{name: str(value) for name, value in formats.items() if value not in (None, "auto")},
            "block_size": config.cache_config.block_size,
            "prefix_match_unit": config.cache_config.prefix_match_unit or config.cache_config.block_size,
            "prefix_caching": "on" if config.cache_config.enable_prefix_caching else "off",
            "max_length": self.plan.encoder.max_length,
        }

    async def aclose(self) -> None:
        # Otherwise it sees the engine process end and logs a crash.
        if self.engine.output_handler is not None:
            self.engine.output_handler.cancel()
        await asyncio.to_thread(self.engine.shutdown)


def _usage_of(output: Any) -> Usage:
    return Usage(len(output.prompt_token_ids), output.num_cached_tokens or 0)


def _cpu_facts(config: Any) -> dict[str, str]:
    """On a CPU: what our plugin does there, in engines that were told to use it."""
    if config.device_config.device_type != "cpu":
        return {}
    facts = {}
    if getattr(config.model_config.hf_config, LABEL_IDS, None):
        facts["label_dtype"] = "float32"
    preferred = PROVIDER in config.kernel_config.ir_op_priority.rms_norm
    facts["norms"] = "C++" if preferred and vllm_name("rms_norm").impls[PROVIDER].supported else "PyTorch"
    return facts


def _matches_within_blocks(cache: Any) -> bool:
    """An engine that we did not start may reuse whole blocks of a hybrid only, which are longer than what prompts share."""
    return bool(cache.enable_prefix_caching and cache.prefix_match_unit)


def _failure(cause: Exception) -> EngineDead | EnginePaused | Refused:
    """Maps vLLM's exception to one of ours."""
    if isinstance(cause, vllm_name("EngineDeadError")):
        return EngineDead("the engine process has died; start a new Reranker")
    if getattr(cause, "status_code", None) == HTTPStatus.SERVICE_UNAVAILABLE:
        return EnginePaused(f"the engine accepts no requests now ({first_line(cause)}); try again")
    return Refused(first_line(cause.__cause__ or cause))


def _document_error(cause: Exception) -> DocumentError:
    """The error for one document. Raises instead if the error ends the whole call."""
    failure = _failure(cause)
    if not isinstance(failure, Refused):
        raise failure from cause
    return DocumentError("engine", f"the engine refused this document: {failure}")


def _require_main_guard() -> None:
    """Raise in a spawned engine process: it runs the parent's script first, and would start another engine, and so on."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InvalidRequest(
            "the engine's process runs this script, too, before anything else: start a Reranker only below "
            "`if __name__ == '__main__':`"
        )


def _start_engine(options: dict[str, Any]) -> Any:
    """Start the engine, and restore the caller's start method of processes, which vLLM's CPU platform overwrites."""
    method, errors = os.environ.get(START_METHOD), EngineErrors()
    arguments = vllm_name("AsyncEngineArgs")(**options)
    config = arguments.create_engine_config(vllm_name("UsageContext").ENGINE_CONTEXT)
    if method is not None:
        os.environ[START_METHOD] = method
    with errors:
        return vllm_name("AsyncLLM").from_vllm_config(config, disable_log_stats=True)


def start_error_text(cause: BaseException) -> str:
    """vLLM's message, with the name of our option where it names its own."""
    line = first_line(cause).rstrip(".")
    return "; with whyrank, ".join([line, *(ours for theirs, ours in _REMEDIES.items() if theirs in line)])


def remark_of_quantised(plan: Plan) -> str:
    """What to do if that is why a checkpoint cannot be served; vLLM's errors name kernels, types and sizes."""
    quantization = plan.checkpoint.quantization
    return "" if quantization is None else f"; if its weights are the reason ({quantization.method}), {REMEDY}"


def _import_vllm() -> None:
    """Import all that a start needs; it takes seconds."""
    warn_of_versions()
    require_device(vllm_name("current_platform"))
    for name in ("AsyncEngineArgs", "AsyncLLM", "tokens_input"):
        vllm_name(name)
    register_cpu_kernels()


def _common_options(plan: Plan, on_cpu: bool) -> dict[str, Any]:
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
        options["language_model_only"] = (
            True  # texts are all that is read: neither a vision tower nor an image processor
        )
    for name in ("tensor_parallel_size", "quantization", "gpu_memory_utilization"):
        if (value := getattr(config, name)) != options_of(EngineConfig)[name].default:
            options[name] = value
    if config.kv_cache_gib is not None:
        options["kv_cache_memory_bytes"] = int(config.kv_cache_gib * _GIB)
    return (_cpu_options(plan, int8_instructions()) if on_cpu else _gpu_options(plan, options["dtype"])) | options


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
    options = {
        "enforce_eager": True,
        "ir_op_priority": norm_priorities(),
        # The default of 128 would leave most of a shared prefix out of the cache (hybrids choose for themselves).
        "block_size": _BLOCK,
        "max_num_batched_tokens": 8192 if hybrid else 1024,
        "max_num_seqs": 64,
        "kv_cache_memory_bytes": _cache_bytes(plan),
    }
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

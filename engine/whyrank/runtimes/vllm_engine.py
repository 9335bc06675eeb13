"""What the two vLLM routes share: starting the engine, submitting prompts, and mapping vLLM's errors to ours."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import multiprocessing
import os
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from copy import copy
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar

from whyrank.checkpoints import Plan
from whyrank.engine_process import EngineErrors, first_line
from whyrank.errors import CheckpointError, EngineDead, EnginePaused, InvalidRequest
from whyrank.fan_out import as_completed
from whyrank.process import (
    START_METHOD,
    environment_restored,
    is_cpu_build,
    set_engine_environment,
)
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids, common_prefix
from whyrank.runtimes.base import Answer
from whyrank.runtimes.cpu_kernels import LABEL_IDS, PROVIDER, register_cpu_kernels
from whyrank.runtimes.engine_options import (
    MATCH_UNIT,
    common_options,
    remark_of_quantised,
    start_error_text,
    with_users_options,
)
from whyrank.runtimes.ranks import Ranks, Readers
from whyrank.runtimes.vllm_compat import (
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

__all__ = ["Reading", "Refused", "VllmRuntime"]

# Prompts of one call that the engine holds: enough to fill its batches; even a huge call leaves memory to others.
_MAX_CONCURRENCY = 1024
# Prompts submitted before other tasks on the event loop get a turn: two milliseconds.
_SUBMITTED_AT_ONCE = 32
# Fewer prompts than this are not worth the extra step that it takes to warm their query.
_MIN_PROMPTS_TO_WARM = 8
_MAX_WARMED_FRAMES = 1024

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
        return with_users_options(common_options(plan, on_cpu) | cls._options(plan, on_cpu), plan.config.engine_options)

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


def _import_vllm() -> None:
    """Import all that a start needs; it takes seconds."""
    warn_of_versions()
    require_device(vllm_name("current_platform"))
    for name in ("AsyncEngineArgs", "AsyncLLM", "tokens_input"):
        vllm_name(name)
    register_cpu_kernels()

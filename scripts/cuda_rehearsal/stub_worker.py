"""vLLM's GPU worker without a GPU: the model's layers are made, without weights, and no kernel runs.

The engine's core, its scheduler and its block manager around this are vLLM's own. It writes what it was started with and each
step it was given into the folder REHEARSAL_FOLDER, for rehearse.py. There, engines on the same GPU also see how much of its
memory the others hold.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from torch.overrides import TorchFunctionMode
from vllm import envs
from vllm.config import set_current_vllm_config
from vllm.distributed.parallel_state import ensure_model_parallel_initialized, init_distributed_environment
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.platforms import current_platform
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.outputs import AsyncModelRunnerOutput, LogprobsLists, ModelRunnerOutput
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec
from vllm.v1.worker.utils import request_memory
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

_GPU_BYTES = 80 << 30
# As long as a step would take on a large GPU with a model of 0.6B, roughly: prompts that arrive meanwhile make the next one.
_SECONDS_PER_TOKEN = 2e-6
# What a continuation without a grammar would say.
_ANY_TOKEN = 5


class OnNoDevice(TorchFunctionMode):  # type: ignore[misc]
    """Tensors that are asked for on the GPU have a shape, and no memory."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if isinstance(device, int) or "cuda" in str(device):
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


class Step(AsyncModelRunnerOutput):  # type: ignore[misc]
    """A step's output, which is there when its time is over. vLLM's async scheduling waits for it while it plans the next."""

    def __init__(self, output: ModelRunnerOutput, ends: float) -> None:
        self._output, self._ends = output, ends

    def get_output(self) -> ModelRunnerOutput:
        time.sleep(max(0.0, self._ends - time.monotonic()))
        return self._output

    def get_kv_connector_output(self) -> None:
        return None


class Prompt:
    """One request in the engine. Its margin depends on its ids, and on nothing else."""

    def __init__(self, scheduled: Any) -> None:
        self.length, self.computed = len(scheduled.prompt_token_ids), scheduled.num_computed_tokens
        self.labels: list[int] = getattr(scheduled.sampling_params, "logprob_token_ids", None) or []
        self.logit = (sum(scheduled.prompt_token_ids) % 97) / 20


class StubWorker(WorkerBase):  # type: ignore[misc]
    def init_device(self) -> None:
        # torch's own check, which it makes when a process first uses its GPU.
        if torch.cuda._is_in_bad_fork():
            raise RuntimeError(
                "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' "
                "start method"
            )
        torch.set_num_threads(1)
        with set_current_vllm_config(self.vllm_config):
            init_distributed_environment(1, 0, self.distributed_init_method, 0, "gloo")
            ensure_model_parallel_initialized(1, 1)
        self.device = torch.device("meta")
        # In a process of its own, a thread hands over what the worker returns, and would first set the GPU.
        type(current_platform).set_device = staticmethod(lambda device: None)
        self._folder = Path(os.environ["REHEARSAL_FOLDER"])
        self._steps, self._ends = (self._folder / f"steps-{os.getpid()}.jsonl").open("w"), 0.0
        self._is_pooling = self.model_config.runner_type == "pooling"
        self._prompts: dict[str, Prompt] = {}
        free = _GPU_BYTES - self._bytes_of_others()
        snapshot = SimpleNamespace(total_memory=_GPU_BYTES, free_memory=free, device_=torch.device("cuda", 0))
        self._share = request_memory(snapshot, self.cache_config)

    @property
    def _gpu(self) -> str:
        rank = self.parallel_config.data_parallel_rank_local
        return f"gpu-{os.environ.get('CUDA_VISIBLE_DEVICES', '')}-{self.local_rank}-{rank or 0}"

    def _bytes_of_others(self) -> int:
        files = {int(path.suffix[1:]): path for path in self._folder.glob(f"{self._gpu}.*")}
        return sum(int(path.read_text()) for pid, path in files.items() if psutil.pid_exists(pid))

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        with self._meta():
            self.model = initialize_model(vllm_config=self.vllm_config, model_config=self.model_config)

    @contextmanager
    def _meta(self) -> Iterator[None]:
        dtype = set_default_torch_dtype(self.model_config.dtype)
        with set_current_vllm_config(self.vllm_config), dtype, torch.device("meta"), OnNoDevice():
            yield

    def get_model(self) -> Any:
        return self.model

    def get_kv_cache_spec(self) -> Any:
        return get_kv_cache_spec(self.vllm_config)

    def determine_available_memory(self) -> int:
        return int(self.cache_config.kv_cache_memory_bytes or self._share)

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        (self._folder / f"{self._gpu}.{os.getpid()}").write_text(str(self.determine_available_memory()))

    def compile_or_warm_up_model(self) -> CompilationTimes:
        if (
            not self._is_pooling
        ):  # raises where the head cannot be used as configured; kernels are missing, and not missed
            with self._meta(), suppress(NotImplementedError):
                self.model.compute_logits(torch.empty(1, self.model_config.get_hidden_size()))
        (self._folder / f"engine-{os.getpid()}.json").write_text(json.dumps(self._facts()))
        return CompilationTimes(language_model=0.0, encoder=0.0)

    def _facts(self) -> dict[str, Any]:
        layers = self.compilation_config.static_forward_context.values()
        backends = {layer.get_attn_backend().__name__ for layer in layers if hasattr(layer, "get_attn_backend")}
        linear = {layer.gdn_prefill_backend for layer in layers if hasattr(layer, "gdn_prefill_backend")}
        return {
            "dtype": str(self.model_config.dtype),
            "head_dtype": str(self.model_config.head_dtype),
            "block_size": self.cache_config.block_size,
            "prefix_match_unit": self.cache_config.prefix_match_unit,
            "gpu_memory_utilization": self.cache_config.gpu_memory_utilization,
            "kv_cache_memory_bytes": self.cache_config.kv_cache_memory_bytes,
            "max_num_seqs": self.scheduler_config.max_num_seqs,
            "max_num_batched_tokens": self.scheduler_config.max_num_batched_tokens,
            "async_scheduling": self.scheduler_config.async_scheduling,
            "capture_sizes": len(self.compilation_config.cudagraph_capture_sizes or ()),
            "attention": sorted(backends),
            "linear_attention": sorted(linear),
            # Whether vLLM's sampler would compile its kernel for top-k and top-p at the start. FlashInfer itself is not asked:
            # it wants a real driver.
            "sampler_compiles": not self._is_pooling and envs.VLLM_USE_FLASHINFER_SAMPLER,
        }

    def get_supported_tasks(self) -> tuple[str, ...]:
        return ("classify", "score") if self._is_pooling else ("generate",)

    def supports_draft_weight_updates(self) -> bool:
        return False

    def check_health(self) -> None:
        pass

    def execute_dummy_batch(self) -> None:
        pass

    def update_max_model_len(self, max_model_len: int) -> None:
        pass

    def shutdown(self) -> None:
        self._steps.close()

    # The steps.

    def execute_model(self, scheduled: Any) -> Any:
        for new in scheduled.scheduled_new_reqs:
            self._prompts[new.req_id] = Prompt(new)
        for request_id in scheduled.finished_req_ids:
            self._prompts.pop(request_id, None)
        self._scheduled = scheduled.num_scheduled_tokens
        if not self._scheduled:
            return ModelRunnerOutput(req_ids=[], req_id_to_index={})
        print(len(self._scheduled), scheduled.total_num_scheduled_tokens, file=self._steps, flush=True)
        seconds = scheduled.total_num_scheduled_tokens * _SECONDS_PER_TOKEN
        self._ends = max(time.monotonic(), self._ends) + seconds
        return Step(self._output(None), self._ends) if self._is_pooling else None

    def sample_tokens(self, grammar: Any) -> Any:
        return Step(self._output(grammar), self._ends)

    def _output(self, grammar: Any) -> ModelRunnerOutput:
        ids = list(self._scheduled)
        prompts = [self._prompts[request_id] for request_id in ids]
        for request_id, prompt in zip(ids, prompts, strict=True):
            prompt.computed += self._scheduled[request_id]
        ended = [prompt.computed >= prompt.length for prompt in prompts]
        places = {request_id: place for place, request_id in enumerate(ids)}
        if self._is_pooling:
            logits = [
                torch.tensor([prompt.logit]) if done else None for prompt, done in zip(prompts, ended, strict=True)
            ]
            return ModelRunnerOutput(req_ids=ids, req_id_to_index=places, pooler_output=logits)
        tokens = _first_allowed(grammar, self.model_config.hf_text_config.eos_token_id)
        sampled = [[tokens.get(i, _ANY_TOKEN)] if done else [] for i, done in zip(ids, ended, strict=True)]
        return ModelRunnerOutput(
            req_ids=ids, req_id_to_index=places, sampled_token_ids=sampled, logprobs=_logprobs(prompts)
        )


def _first_allowed(grammar: Any, end: int) -> dict[str, int]:
    """The end of the text where the grammar lets it end, otherwise the first token that it allows."""
    if grammar is None:
        return {}
    tokens = {}
    for request_id, mask in zip(grammar.structured_output_request_ids, grammar.grammar_bitmask, strict=False):
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0]
        tokens[request_id] = end if end in allowed else int(allowed[0])
    return tokens


def _logprobs(prompts: list[Prompt]) -> LogprobsLists | None:
    """As vLLM's sampler has them: the sampled token first, then the labels."""
    columns = max(len(prompt.labels) for prompt in prompts)
    if not columns:
        return None
    ids = np.full((len(prompts), 1 + columns), _ANY_TOKEN, np.int64)
    values = np.full((len(prompts), 1 + columns), -1.0, np.float32)
    for row, prompt in enumerate(prompts):
        ids[row, 1 : 1 + len(prompt.labels)] = prompt.labels
        values[row, 1] = -0.3 - prompt.logit / 10
    return LogprobsLists(ids, values, np.ones(len(prompts), np.int64), None)

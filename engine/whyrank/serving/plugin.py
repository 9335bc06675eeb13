"""whyrank inside `vllm serve`: vLLM loads it by the entry point `vllm.endpoint_plugins`, if VLLM_PLUGINS names it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute

from whyrank.checkpoints import Plan, make_plan, make_verifier_plan
from whyrank.config import EngineConfig
from whyrank.errors import CheckpointError
from whyrank.label_choice import choose_labels
from whyrank.pipeline.verifier import Verifier
from whyrank.runtimes.base import Runtime
from whyrank.runtimes.classify import ClassifyRuntime
from whyrank.runtimes.cpu_kernels import LABEL_IDS, PROVIDER, norm_priorities
from whyrank.runtimes.engine_options import MATCH_UNIT
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.runtimes.vllm_compat import api_process, warn_of_versions
from whyrank.runtimes.vllm_engine import VllmRuntime
from whyrank.serving.admission import Limits
from whyrank.serving.connections import END_SECONDS, end_within, limited_connections
from whyrank.serving.middleware import ApiKeyMiddleware, endpoints_of
from whyrank.serving.openapi import describe
from whyrank.serving.router import routers
from whyrank.serving.service import Adapter, Service
from whyrank.serving.start_lines import announced
from whyrank.verifier import start_verifier

__all__ = [
    "PROTECT_METRICS",
    "STRICT_MODEL",
    "VLLM_ROUTES",
    "DrainOnShutdown",
    "WhyrankPlugin",
    "check_config",
    "close_routes",
    "config_warnings",
    "enable_warnings",
    "replace_key_check",
]

logger = logging.getLogger(__name__)

# Set by `whyrank serve`: "0" closes vLLM's own routes; "1" protects /metrics by the key; "1" refuses other model names.
VLLM_ROUTES = "WHYRANK_VLLM_ROUTES"
PROTECT_METRICS = "WHYRANK_PROTECT_METRICS"
STRICT_MODEL = "WHYRANK_STRICT_MODEL"

_VLLM_KEY_CHECK = "AuthenticationMiddleware"
_ENDPOINTS = endpoints_of(routers)
# vLLM's routes that neither reach the engine nor change the server.
_HARMLESS_PATHS = frozenset(
    "/metrics /ping /version /v1/models /docs /docs/oauth2-redirect /redoc /openapi.json /static".split()
)
# On the classify route it scores with vLLM's prompt instead of the model's, and returns the input's order.
_WRONG_SCORES_PATHS = frozenset(["/invocations"])


class WhyrankPlugin:
    name = "whyrank"
    required_tasks = ("generate", "classify", "score")
    engine_client: ClassVar[DrainOnShutdown | None] = None
    """That of the server in this process; None if there is none, or not yet."""

    def attach_router(self, app: FastAPI) -> None:
        for router in (*routers, APIRouter(lifespan=limited_connections), APIRouter(lifespan=announced)):
            app.include_router(router)
        app.add_middleware(
            ApiKeyMiddleware, endpoints=_ENDPOINTS, protect_metrics=os.environ.get(PROTECT_METRICS) == "1"
        )
        self._app = app

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        if engine_client is None:
            return  # vLLM's rendering server has no engine; our routes answer that the server is still starting
        enable_warnings()
        warn_of_versions()
        plan = await asyncio.to_thread(_plan, engine_client.vllm_config.model_config, args)
        check_config(engine_client.vllm_config, plan)
        for line in config_warnings(engine_client.vllm_config, plan):
            logger.warning("%s; `whyrank serve` does", line)
        kind = ClassifyRuntime if plan.route == "classify" else GenerateRuntime
        keys = args.api_key or [os.environ.get("VLLM_API_KEY", "")]
        names = args.served_model_name or [args.model]
        strict = os.environ.get(STRICT_MODEL) == "1"
        limits = Limits.from_environment()
        runtime, plan = await choose_labels(kind(engine_client, plan), plan)
        adapters = _adapters(runtime, state.openai_serving_models.lora_requests)
        verifier = await _verifier(engine_client.vllm_config, plan)
        _, processes = api_process(engine_client.vllm_config)
        service = Service(
            *(runtime, plan, limits, keys, *names),
            strict_model=strict,
            verifier=verifier,
            adapters=adapters,
            processes=processes,
        )
        await service.warm_up()
        replace_key_check(self._app)
        close_routes(self._app, plan.route, keep_vllm=os.environ.get(VLLM_ROUTES) != "0")
        describe(self._app, service)
        state.whyrank = service
        state.engine_client = WhyrankPlugin.engine_client = DrainOnShutdown(engine_client, service)


def _adapters(runtime: Runtime, loaded: Mapping[str, Any]) -> dict[str, Adapter]:
    """`loaded`: vLLM's LoRA requests by name."""
    assert isinstance(runtime, VllmRuntime)  # those that vLLM serves are
    return {name: Adapter(adapter.lora_path, runtime.with_adapter(adapter)) for name, adapter in loaded.items()}


async def _verifier(config: Any, plan: Plan) -> Verifier | None:
    """The second engine, in a process of its own below this one."""
    verifier_plan = await asyncio.to_thread(make_verifier_plan, plan)
    if verifier_plan is None:
        return None
    _, processes = api_process(config)
    if processes > 1:
        raise CheckpointError(
            f"verifier {plan.config.verifier!r}: each of the {processes} API server processes would load it: start with "
            "--api-server-count 1"
        )
    return await start_verifier(verifier_plan)


def replace_key_check(app: FastAPI) -> None:
    """Removes vLLM's own check. It protects only some of the paths that ApiKeyMiddleware protects, and its refusal is in no
    dialect and does not say how to send a key."""
    app.user_middleware[:] = [one for one in app.user_middleware if one.cls.__name__ != _VLLM_KEY_CHECK]  # type: ignore[attr-defined]
    app.middleware_stack = None  # rebuilt at the first request


def close_routes(app: FastAPI, route: str, keep_vllm: bool) -> None:
    """Removes the routes that this server should not have. An allowlist: routes of later vLLM versions are closed, too."""
    app.router.routes[:] = [one for one in app.router.routes if _stays(one, route, keep_vllm)]
    app.openapi_schema = None


def _stays(one: BaseRoute, route: str, keep_vllm: bool) -> bool:
    path = getattr(one, "path", None)
    if getattr(one, "endpoint", None) in _ENDPOINTS or path in _HARMLESS_PATHS:
        return True
    return keep_vllm and not (route == "classify" and path in _WRONG_SCORES_PATHS)


def enable_warnings() -> None:
    """A library that vLLM's server imports sets all loggers but vLLM's own to log only errors."""
    ours = logging.getLogger("whyrank")
    if ours.level == logging.NOTSET:  # otherwise the user has decided
        ours.setLevel(logging.WARNING)


class DrainOnShutdown:
    """Wraps the engine client that vLLM's server shuts down at SIGTERM. A draining engine takes no new prompts and in the end
    gives no answers; whyrank's calls, which submit prompts as they go, are therefore finished before it."""

    stopped = False
    """Whether the server was asked to stop. It also ends when its engine dies, and vLLM reports both as success."""
    verifier_seconds = 10.0
    """For the verifier's engine to end, once the other one has."""

    def __init__(self, engine_client: Any, service: Service, end_within: Callable[[float], None] = end_within) -> None:
        self._engine_client = engine_client
        self._service = service
        self._end_within = end_within
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine_client, name)

    def shutdown(self, timeout: float | None = None) -> None:
        self.stopped = True
        self._end_within((timeout or 0) + END_SECONDS)
        began = time.monotonic()
        self._service.stop(timeout or 0, self._loop)
        verifier, closing = self._service.verifier, None
        if verifier is not None:
            closing = asyncio.run_coroutine_threadsafe(verifier.runtime.aclose(), self._loop)
        self._loop.call_soon_threadsafe(self._end_idle_output_handler)
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        self._engine_client.shutdown(timeout=left)
        if closing is not None:
            try:
                closing.result(self.verifier_seconds)
            except TimeoutError:
                logger.warning("the verifier's engine has not ended within %g seconds", self.verifier_seconds)

    def _end_idle_output_handler(self) -> None:
        """Cancel vLLM's output reader before the engine ends: it would log that as a crash. Requests on vLLM's own routes still
        need it."""
        handler = self._engine_client.output_handler
        if handler is not None and not self._engine_client.output_processor.has_unfinished_requests():
            handler.cancel()


def _plan(model: Any, args: Namespace) -> Plan:
    return make_plan(
        EngineConfig(
            model.model,
            prompt=os.environ.get("WHYRANK_PROMPT"),
            route="classify" if model.runner_type == "pooling" else "generate",
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            calibration=os.environ.get("WHYRANK_CALIBRATION"),
            verifier=os.environ.get("WHYRANK_VERIFIER"),
        ),
        positions=model.max_model_len,
    )


def check_config(config: Any, plan: Plan) -> None:
    """Refuse settings that `whyrank serve` gets right but plain `vllm serve` may not, and that make scores wrong or missing."""
    if plan.route != "generate":
        return
    if plan.format.score.rule == "logit" and config.model_config.logprobs_mode != "raw_logits":
        raise CheckpointError(
            f"prompt '{plan.format.name}' reads raw logits: start with --logprobs-mode raw_logits, or with `whyrank serve`"
        )
    if config.speculative_config is not None:
        raise CheckpointError(
            "speculative decoding: vLLM returns no values for the label tokens in a step with draft tokens, so documents "
            "would have no score; start without --speculative-config"
        )


def config_warnings(config: Any, plan: Plan) -> list[str]:
    """Settings that `whyrank serve` makes but plain `vllm serve` may lack, and that cost speed or precision."""
    model, cache = config.model_config, config.cache_config
    warnings = []
    if not cache.enable_prefix_caching:
        warnings.append("prompt and query are computed again for every document: give --enable-prefix-caching")
    elif plan.checkpoint.has_linear_attention and not cache.prefix_match_unit:
        warnings.append(
            "this hybrid model reuses only whole blocks, which are longer than the prefix that documents share: "
            f"give --prefix-match-unit {MATCH_UNIT}"
        )
    on_cpu = config.device_config.device_type == "cpu"
    labels = plan.encoder.labels
    in_16_bits = model.head_dtype.itemsize < 4 and not plan.checkpoint.has_quantized_head
    if plan.route == "generate" and labels is not None and in_16_bits:
        remedy = {LABEL_IDS: labels.ids} if on_cpu else {"head_dtype": "float32"}
        if not (on_cpu and hasattr(model.hf_config, LABEL_IDS)):
            warnings.append(
                f"logits of {model.head_dtype} are coarse, which causes ties: "
                f"give --hf-overrides '{json.dumps(remedy)}'"
            )
    if on_cpu and PROVIDER not in config.kernel_config.ir_op_priority.rms_norm:
        warnings.append(
            f"norms are computed in PyTorch, which is slower: give --ir-op-priority '{json.dumps(norm_priorities())}'"
        )
    if config.scheduler_config.policy == "fcfs":
        warnings.append("a call with many documents delays all later calls: give --scheduling-policy priority")
    return warnings

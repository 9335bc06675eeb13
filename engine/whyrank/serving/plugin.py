"""whyrank inside `vllm serve`: what vLLM loads under the entry point `vllm.endpoint_plugins`, when VLLM_PLUGINS names it."""

from __future__ import annotations

import asyncio
import os
import time
from argparse import Namespace
from typing import Any

from fastapi import FastAPI

from whyrank.checkpoints import Plan, make_plan
from whyrank.config import EngineConfig
from whyrank.errors import CheckpointError
from whyrank.runtimes.classify import ClassifyRuntime
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.serving.admission import Limits
from whyrank.serving.router import routers
from whyrank.serving.service import Service

__all__ = ["WhyrankPlugin"]


class WhyrankPlugin:
    name = "whyrank"
    required_tasks = ("generate", "classify", "score")

    def attach_router(self, app: FastAPI) -> None:
        for router in routers:
            app.include_router(router)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        if engine_client is None:
            return  # vLLM's rendering server has no engine; our routes say that nothing has started
        plan = await asyncio.to_thread(_plan, engine_client.vllm_config.model_config, args)
        _require(engine_client.vllm_config.model_config, plan)
        kind = ClassifyRuntime if plan.route == "classify" else GenerateRuntime
        keys = args.api_key or [os.environ.get("VLLM_API_KEY", "")]
        names = args.served_model_name or [args.model]
        service = Service(kind(engine_client, plan), plan, Limits.from_environment(), keys, names[0])
        await service.warm_up()
        state.whyrank = service
        state.engine_client = _StoppedInOrder(engine_client, service)


class _StoppedInOrder:
    """The engine client as vLLM's server keeps it, to be shut down at SIGTERM. An engine that drains takes no new prompts
    and gives no answers in the end; so calls of whyrank, which hand over prompts as they go, are brought home before."""

    def __init__(self, engine_client: Any, service: Service) -> None:
        self._engine_client = engine_client
        self._service = service
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine_client, name)

    def shutdown(self, timeout: float | None = None) -> None:
        began = time.monotonic()
        self._service.stop(timeout or 0, self._loop)
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        self._engine_client.shutdown(timeout=left)


def _plan(model: Any, args: Namespace) -> Plan:
    return make_plan(
        EngineConfig(
            model.model,
            prompt=os.environ.get("WHYRANK_PROMPT"),
            route="classify" if model.runner_type == "pooling" else "generate",
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            calibration=os.environ.get("WHYRANK_CALIBRATION"),
        ),
        positions=model.max_model_len,
    )


def _require(model: Any, plan: Plan) -> None:
    """What `whyrank serve` sets and a plain `vllm serve` may lack, where scores would be wrong without it."""
    if plan.route == "generate" and plan.format.score.rule == "logit" and model.logprobs_mode != "raw_logits":
        raise CheckpointError(
            f"prompt '{plan.format.name}' reads raw logits: start with --logprobs-mode raw_logits, or with `whyrank serve`"
        )

"""Many replicas on Ray Serve: an ingress that speaks all HTTP routes, and replicas that each own one engine.

    serve run whyrank.cluster.ray_serve:app model=Qwen/Qwen3-Reranker-0.6B replicas=4
    whyrank serve Qwen/Qwen3-Reranker-0.6B --ray --replicas 4

The ingress is the server of one machine, except that its runtime's engines are elsewhere (remote.py): limits, keys, deadlines,
order and every dialect are the same code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.handle import DeploymentHandle

from whyrank.checkpoints import make_plan
from whyrank.cluster.autoscaling import QueuedTokens
from whyrank.cluster.remote import RemoteGenerativeRuntime, RemoteRuntime, Tile, TileAnswers, WrittenPiece
from whyrank.cluster.replica import Description, EngineReplica, gpus_of
from whyrank.config import EngineConfig
from whyrank.errors import EngineDead, InvalidRequest, Overloaded
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import GenerationParams
from whyrank.serving.admission import Limits
from whyrank.serving.service import Service
from whyrank.serving.standalone import make_app

__all__ = ["ClusterOptions", "RayReplicas", "app", "run", "sticky_router"]

_LOST = (
    *(RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError),
    *(DeploymentUnavailableError, ReplicaUnavailableError),
)
# Replicas that are asked after a tile's own, where that has no room.
_FALLBACKS = 4
# A busy engine may keep a health check waiting; Ray's own default kills it then.
_HEALTH_SECONDS = 30.0
_DRAIN_SECONDS = 60.0


class ClusterOptions(BaseModel):
    """What `serve run` and a Serve config file may set."""

    model_config = ConfigDict(extra="forbid")

    model: str
    engine: dict[str, Any] = Field(default={}, description="Further fields of EngineConfig.")
    replicas: Annotated[int, Field(ge=1, description="Engines; with max_replicas the fewest.")] = 1
    max_replicas: Annotated[int | None, Field(ge=1, description="Let Ray start up to so many under load.")] = None
    target_tokens: Annotated[
        int,
        Field(
            ge=1, description="With max_replicas: tokens in progress or waiting, for each replica that there should be."
        ),
    ] = 32768
    num_gpus: Annotated[float | None, Field(ge=0, description="Of a replica: one by default, none on a CPU.")] = None
    num_cpus: Annotated[float, Field(gt=0, description="Of a replica; on a CPU its threads, too.")] = 1
    tiles_per_replica: Annotated[int, Field(ge=1, description="Messages that one engine works on at once.")] = 8
    ingresses: Annotated[int, Field(ge=1, description="Processes that take requests and make prompts.")] = 1
    api_keys: list[str] = []
    protect_metrics: bool = False
    strict_model: bool = False

    @property
    def config(self) -> EngineConfig:
        config = EngineConfig(self.model, **self.engine)
        if config.verifier is not None:
            raise InvalidRequest("a verifier of its own is not served on Ray: leave it out, or start one server for it")
        return config


class Replica:
    async def __init__(self, config: EngineConfig) -> None:  # type: ignore[misc] # Ray awaits it
        self._engine = await EngineReplica.start(serve.get_replica_context().replica_id.unique_id, config)

    async def describe(self) -> Description:
        return self._engine.describe()

    async def read(self, tile: Tile) -> TileAnswers:
        return await self._engine.read(tile)

    async def write(self, prompts: Sequence[Ids], order: GenerationParams) -> AsyncGenerator[WrittenPiece, None]:
        async for piece in self._engine.write(prompts, order):
            yield piece

    async def check_health(self) -> None:
        await self._engine.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._engine.load()


class RayReplicas:
    """remote.Replicas over a handle of Ray Serve, whose router keeps equal session ids together."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def read(self, key: str, tile: Tile) -> TileAnswers:
        with _errors_of_ray():
            response = _send(self._handle.options(session_id=key).read, tile)
            try:
                answers: TileAnswers = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            return answers

    async def write(
        self, key: str, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[WrittenPiece, None]:
        pieces = _send(self._handle.options(session_id=key, stream=True).write, prompts, order)
        try:
            with _errors_of_ray():
                async for piece in pieces:
                    yield piece
        finally:
            pieces.cancel()


def _send(method: DeploymentHandle, *arguments: Any) -> Any:
    """In a context of its own, so that each message has an id of its own. Ray would give all messages of one HTTP request that
    request's id, by which its router finds those that wait for room: the others would wait for ever."""
    return Context().run(method.remote, *arguments)


@contextmanager
def _errors_of_ray() -> Iterator[None]:
    try:
        yield
    except _LOST as cause:
        raise EngineDead(f"a replica was lost: {cause}") from cause
    except BackPressureError as cause:
        raise Overloaded("all replicas are busy: try again") from cause


class Ingress:
    async def __init__(self, options: ClusterOptions, handle: DeploymentHandle) -> None:  # type: ignore[misc]
        config = options.config
        plan, description = await asyncio.gather(asyncio.to_thread(make_plan, config), handle.describe.remote())
        if description.choice is not None:
            plan = plan.with_choice(plan.choices[description.choice])
        kind = RemoteGenerativeRuntime if plan.route == "generate" else RemoteRuntime
        runtime = kind(RayReplicas(handle), description.facts)
        limits = Limits.from_environment()
        service = Service(
            *(runtime, plan, limits, options.api_keys, config.model),
            strict_model=options.strict_model,
            processes=options.ingresses,
        )
        await service.warm_up()
        _publish(make_app(service, options.protect_metrics))


# Ray makes the app by calling a function without arguments, after the constructor.
_published: list[FastAPI] = []


def _publish(made: FastAPI) -> None:
    _published[:] = [made]


def _the_app() -> FastAPI:
    return _published[0]


def sticky_router() -> RequestRouterConfig:
    """Equal keys to the same replica; to the next ones where that has no room."""
    return RequestRouterConfig(
        request_router_class=ConsistentHashRouter, request_router_kwargs={"num_fallback_replicas": _FALLBACKS}
    )


def app(options: ClusterOptions) -> serve.Application:
    """The application, for `serve run`, `serve build` and config files."""
    config = options.config
    num_gpus = gpus_of(config) if options.num_gpus is None else options.num_gpus
    replicas = serve.deployment(
        Replica,
        **replica_count(options),
        max_ongoing_requests=options.tiles_per_replica,
        health_check_timeout_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=_DRAIN_SECONDS,
        request_router_config=sticky_router(),
        ray_actor_options={"num_gpus": num_gpus, "num_cpus": options.num_cpus},
    ).bind(config)
    ingress = serve.deployment(
        serve.ingress(_the_app)(Ingress),
        name="Ingress",
        num_replicas=options.ingresses,
        max_ongoing_requests=1 << 16,  # the server's own admission decides
        graceful_shutdown_timeout_s=_DRAIN_SECONDS,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(options, replicas)


def replica_count(options: ClusterOptions) -> dict[str, Any]:
    if options.max_replicas is None:
        return {"num_replicas": options.replicas}
    policy = AutoscalingPolicy(
        policy_function=QueuedTokens, policy_kwargs={"target_tokens": float(options.target_tokens)}
    )
    config = AutoscalingConfig(
        min_replicas=options.replicas, max_replicas=max(options.replicas, options.max_replicas), policy=policy
    )
    return {"autoscaling_config": config}


def run(options: ClusterOptions, host: str, port: int) -> None:
    """`whyrank serve --ray`: on the cluster that this machine belongs to, or else on one of its own. Returns when stopped."""
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(app(options), name="whyrank", blocking=True)
    finally:
        serve.shutdown()

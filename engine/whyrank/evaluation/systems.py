"""What can be evaluated: anything that reranks. And the one place where its name becomes a thing that runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, Protocol, Unpack, get_args, get_type_hints

from whyrank.config import EngineConfig
from whyrank.connect import is_url, masked, open_model, open_server
from whyrank.errors import InvalidRequest
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions
from whyrank.types import Document

__all__ = ["Target", "open_target", "target_options"]


class Target(Protocol):
    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking: ...


@asynccontextmanager
async def open_target(name: str, **options: Any) -> AsyncIterator[Target]:
    """A model's name, perhaps with options of its engine behind it: "Qwen/Qwen3-Reranker-0.6B,dtype=float32". What stands
    in the name wins over `options`.

    Or the URL of a server, which has options of its own: those of the engine that differ from the defaults are refused.
    """
    model, own = target_options(name)
    config = EngineConfig(model, **{**options, **own})
    async with open_server(model, None, config) if is_url(model) else open_model(config) as target:
        yield target


def target_options(name: str) -> tuple[str, Mapping[str, Any]]:
    """ "model,key=value,..." → model and EngineConfig's fields."""
    model, *pairs = name.split(",")
    kinds = {field.name: get_type_hints(EngineConfig)[field.name] for field in fields(EngineConfig)}
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in kinds or key == "model":
            known = ", ".join(kind for kind in kinds if kind != "model")
            raise InvalidRequest(
                f"{masked(name)!r}: {pair!r} is no option of an engine; write key=value with one of {known}"
            )
        options[key] = _as_kind(kinds[key], value, f"{masked(name)!r}: {key}")
    return model, options


def _as_kind(kind: Any, value: str, where: str) -> Any:
    wanted = {kind, *get_args(kind)}
    if bool in wanted:
        if value not in ("true", "false"):
            raise InvalidRequest(f"{where} is {value!r}: say true or false")
        return value == "true"
    for number in (int, float):
        if number in wanted:
            try:
                return number(value)
            except ValueError as cause:
                raise InvalidRequest(f"{where} is {value!r}: give a number") from cause
    return value

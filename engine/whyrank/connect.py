"""Opens a reranker by name: for a server's URL a client, for anything else a model to load."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from whyrank.base import BaseReranker
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.options import options_of

__all__ = [
    "API_KEY_VARIABLE",
    "RerankerContext",
    "is_url",
    "key_of",
    "masked",
    "named_options",
    "open_model",
    "open_reranker",
    "open_server",
]

API_KEY_VARIABLE = "WHYRANK_API_KEY"
"""Environment variable for the API key, used if none is passed."""

RerankerContext = AbstractAsyncContextManager[BaseReranker]


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def masked(text: str) -> str:
    """The text without user and password in URLs."""
    return re.sub(r"(?<=://)\S*@", "***@", text)


def key_of(api_key: str | None) -> str | None:
    return api_key or os.environ.get(API_KEY_VARIABLE) or None


def open_model(config: EngineConfig) -> RerankerContext:
    from whyrank.reranker import Reranker

    return Reranker(config)


def open_server(
    urls: str | Sequence[str], api_key: str | None, config: EngineConfig, **options: Any
) -> RerankerContext:
    """`options`: of AsyncClient. A server already has its engine, so `config` must not set engine options."""
    for option in options_of(EngineConfig).values():
        if option.name != "calibration" and (value := getattr(config, option.name)) != option.default:
            raise InvalidRequest(f"{option.name} is {value!r}: with a URL the server decides that; leave it out")
    from whyrank.client import AsyncClient

    return AsyncClient(urls, key_of(api_key), calibration=config.calibration, **options)


def open_reranker(
    model: str | None, urls: Sequence[str], api_key: str | None, engine: Mapping[str, Any], **options: Any
) -> RerankerContext:
    """A model to load or servers to call. `engine`: options of EngineConfig; `options`: of AsyncClient."""
    if (model is None) == (not urls):
        raise InvalidRequest("give either --model, to load a model, or --url, to call a server")
    config = EngineConfig(model or urls[0], **engine)
    return open_server(urls, api_key, config, **options) if urls else open_model(config)


def named_options(name: str) -> tuple[str, Mapping[str, Any]]:
    """ "model,key=value,..." → model and EngineConfig's fields."""
    model, *pairs = name.split(",")
    known = {option.name: option for option in options_of(EngineConfig).values() if option.flag}
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise InvalidRequest(
                f"{masked(name)!r}: {pair!r} is not an engine option; write key=value with one of {', '.join(known)}"
            )
        options[key] = _parse_option(known[key].kind, value, f"{masked(name)!r}: {key}")
    return model, options


def _parse_option(kind: Any, value: str, where: str) -> Any:
    parsers: dict[Any, Callable[[str], Any]] = {
        bool: {"true": True, "false": False}.__getitem__,
        int: int,
        float: float,
    }
    try:
        return parsers.get(kind, str)(value)
    except (KeyError, ValueError) as cause:
        remedy = "give true or false" if kind is bool else "give a number"
        raise InvalidRequest(f"{where} is {value!r}: {remedy}") from cause

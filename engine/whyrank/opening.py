"""Where the name of a thing that reranks becomes that thing: a server's URL its client, anything else a model to load."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import fields
from typing import Any

from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.verbs import Verbs

__all__ = ["API_KEY_VARIABLE", "Opening", "is_url", "key_of", "masked", "open_either", "open_model", "open_server"]

API_KEY_VARIABLE = "WHYRANK_API_KEY"
"""The environment's variable that holds the key where none is given."""

Opening = AbstractAsyncContextManager[Verbs]


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def masked(text: str) -> str:
    """Without the user and password that a URL may hold."""
    return re.sub(r"(?<=://)\S*@", "***@", text)


def key_of(api_key: str | None) -> str | None:
    return api_key or os.environ.get(API_KEY_VARIABLE) or None


def open_model(config: EngineConfig) -> Opening:
    from whyrank.reranker import Reranker

    return Reranker(config)


def open_server(urls: str | Sequence[str], api_key: str | None, config: EngineConfig, **options: Any) -> Opening:
    """`options`: of AsyncClient. A server was started with its own engine: `config` may not ask for another."""
    for field in fields(config):
        if field.name not in ("model", "calibration") and (value := getattr(config, field.name)) != field.default:
            raise InvalidRequest(f"{field.name} is {value!r}: with a URL the server decides that; leave it out")
    from whyrank.client import AsyncClient

    return AsyncClient(urls, key_of(api_key), calibration=config.calibration, **options)


def open_either(
    model: str | None, urls: Sequence[str], api_key: str | None, engine: Sequence[Any], **options: Any
) -> Opening:
    """What a command was given: `engine` holds the fields of EngineConfig that follow `model`; `options`: of AsyncClient."""
    if (model is None) == (not urls):
        raise InvalidRequest("give either --model, to load one, or --url, to ask a server")
    config = EngineConfig(model or urls[0], *engine)
    return open_server(urls, api_key, config, **options) if urls else open_model(config)

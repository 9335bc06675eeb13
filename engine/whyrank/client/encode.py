"""Requests as the server's JSON: the inverse of serving/native/requests.py. Text is escaped to ASCII, so that lone surrogates
survive the transfer and are treated as they are in process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from whyrank.errors import InvalidRequest
from whyrank.request import RerankRequest
from whyrank.types import Document

__all__ = ["batch_of", "encode_documents", "encode_request", "joined", "pair_head"]

# Metadata may hold values that JSON does not have, such as dates and paths: they are sent as text.
_write = json.JSONEncoder(default=str, skipkeys=True, separators=(",", ":")).encode
_write_finite = json.JSONEncoder(default=str, skipkeys=True, separators=(",", ":"), allow_nan=False).encode

_DEFAULTS = {field.name: field.default for field in fields(RerankRequest) if field.name not in ("query", "documents")}
# What the score of a pair depends on besides the document.
_PAIR_OPTIONS = (
    *("instruction", "truncation", "max_tokens_per_doc", "max_tokens_per_query", "max_prompt_tokens", "truncate_query"),
    "cache_salt",
)


def encode_documents(request: RerankRequest) -> list[bytes]:
    """Each document as JSON. Ids are not sent: rows come back by index."""
    return [_document(document, index) for index, document in enumerate(request.documents)]


def _document(document: Document, index: int) -> bytes:
    if document.title is None and not document.metadata:
        return _write(document.text).encode("ascii")
    body: dict[str, Any] = {"text": document.text}
    if document.title is not None:
        body["title"] = document.title
    if document.metadata:
        body["metadata"] = dict(document.metadata)
    try:
        try:
            return _write_finite(body).encode("ascii")
        except ValueError:  # NaN or infinity, which pandas uses for missing values
            return _write(_without_non_finite(body)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as cause:
        raise InvalidRequest(f"documents[{index}]: 'metadata' cannot be written as JSON: {cause}") from cause


def _without_non_finite(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON lacks, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_non_finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_without_non_finite, value)]
    return value


def pair_head(request: RerankRequest, model: str | None = None) -> bytes:
    """The JSON of a request for scores without its documents."""
    return _head(request, model, _PAIR_OPTIONS)


def _head(request: RerankRequest, model: str | None, options: Iterable[str]) -> bytes:
    given = {name: value for name in options if (value := getattr(request, name)) != _DEFAULTS[name]}
    if model is not None:
        given["model"] = model
    return _write({"query": request.query, "return_documents": False, **given}).encode("ascii")


def encode_request(request: RerankRequest, documents: Iterable[bytes], model: str | None = None) -> bytes:
    return joined(_head(request, model, _DEFAULTS), documents)


def joined(head: bytes, documents: Iterable[bytes]) -> bytes:
    return b'%b,"documents":[%b]}' % (head[:-1], b",".join(documents))


def batch_of(requests: Iterable[bytes]) -> bytes:
    return b'{"requests":[%b]}' % b",".join(requests)

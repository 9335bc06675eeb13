"""The server's OpenAPI document: what it contains beside the routes' own types."""

from __future__ import annotations

from fastapi import FastAPI

from whyrank import __version__
from whyrank.serving.service import Service

__all__ = ["describe"]


def describe(app: FastAPI, service: Service) -> None:
    """Builds and caches the document once all routes are registered: it takes a tenth of a second, which blocks the event
    loop."""
    app.title, app.version, app.openapi_schema = "whyrank", __version__, None
    document = app.openapi()
    if service.wants_key:
        return
    document.get("components", {}).pop("securitySchemes", None)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)

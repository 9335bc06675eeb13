"""Example request bodies for OpenAPI. A test sends each of them."""

from __future__ import annotations

from typing import Any

from fastapi import Body

__all__ = ["OTHER_QUERY", "QUERY", "RERANK", "TEXTS", "examples"]

QUERY, OTHER_QUERY = "At what temperature does water boil?", "How high is Everest?"
TEXTS = ["Water boils at 100 °C at sea level.", "Everest is 8849 metres high."]
RERANK: dict[str, Any] = {"query": QUERY, "documents": TEXTS}


def examples(bodies: dict[str, Any]) -> Any:
    """The annotation of a route's body. `bodies`: example bodies by title."""
    return Body(openapi_examples={title: {"value": body} for title, body in bodies.items()})

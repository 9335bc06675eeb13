"""The served model, as clients of OpenAI, vLLM and Xinference look it up."""

from __future__ import annotations

import time

from fastapi import Request, Response
from typing_extensions import TypedDict

from whyrank.serving.context import service_of
from whyrank.serving.handlers import UnknownModel
from whyrank.serving.native.errors import native_router
from whyrank.serving.responses import JsonResponse
from whyrank.serving.service import Service

__all__ = ["model_card", "router"]

router = native_router()


class ModelCard(TypedDict):
    """`model_type` is for Xinference's client, which checks it to see what a model can do."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    max_model_len: int
    model_type: str


def model_card(service: Service, model: str | None = None) -> ModelCard:
    """Of the served model, or of one of its adapters."""
    return {
        "id": service.answering(model),
        "object": "model",
        "created": int(time.time()),
        "owned_by": "whyrank",
        "root": service.plan.config.source,
        "max_model_len": service.plan.encoder.max_length,
        "model_type": "rerank",
    }


@router.get("/v1/models/{model_id:path}", summary="Model", response_model=ModelCard)
async def get_model(model_id: str, raw: Request) -> Response:
    """The model by any of its names, with its owner or without."""
    service = service_of(raw)
    if not service.serves(model_id):
        raise UnknownModel(f"model {model_id[:80]!r} is not served here: {service.model!r} is")
    return JsonResponse(model_card(service, model_id))

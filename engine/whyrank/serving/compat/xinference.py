"""What Xinference's clients ask before all else. They look their model up and rerank at native paths."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from whyrank.serving.context import service_of
from whyrank.serving.responses import JsonResponse

__all__ = ["router"]

router = APIRouter(tags=["Xinference"])
"""Needs no key: by its answer the client decides whether to send the one that it was given."""


class AuthResponse(TypedDict):
    auth: bool


@router.get("/v1/cluster/auth", summary="Xinference's", response_model=AuthResponse)
async def cluster_auth(raw: Request) -> Response:
    """Whether the server wants a key."""
    response: AuthResponse = {"auth": service_of(raw).wants_key}
    return JsonResponse(response)

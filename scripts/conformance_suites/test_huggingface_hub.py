# /// script
# dependencies = ["huggingface-hub"]
# ///
"""huggingface_hub's clients, as far as they know TEI's rerankers: whether one is well, and what it serves.

They have no method that ranks, and InferenceClient.post, which sent anything, is gone. What they ask of embedders is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError

from served import DOCUMENTS, QUERY, SERVED

constants.HF_HUB_OFFLINE = False  # otherwise it asks no address at all, not even ours
pytestmark = [
    pytest.mark.parametrize("mount", ["", "/tei"]),
    pytest.mark.parametrize("kind", [InferenceClient, AsyncInferenceClient]),
]
Kind = Callable[..., Any]


def client(kind: Kind, mount: str, key: str = SERVED.key) -> Any:
    return kind(model=SERVED.url + mount, provider="hf-inference", token=key)


async def done(answer: Any) -> Any:
    """What either client answers."""
    return await answer if inspect.isawaitable(answer) else answer


async def test_health(kind: Kind, mount: str) -> None:
    assert await done(client(kind, mount).health_check()) is True


async def test_what_is_served(kind: Kind, mount: str) -> None:
    info = await done(client(kind, mount).get_endpoint_info())
    assert info["model_id"] == SERVED.model and [*info["model_type"]] == ["reranker"]
    assert info["max_input_length"] > 0 and info["max_client_batch_size"] > 0


async def test_a_wrong_key(kind: Kind, mount: str) -> None:
    asked = client(kind, mount, key="wrong")
    if SERVED.is_open:
        assert (await done(asked.get_endpoint_info()))["model_id"] == SERVED.model
        return
    with pytest.raises(HfHubHTTPError) as refused:
        await done(asked.get_endpoint_info())
    assert refused.value.response.status_code == 401
    assert "Authorization: Bearer KEY" in refused.value.response.text


async def test_what_only_embedders_do_is_refused(kind: Kind, mount: str) -> None:
    asked = client(kind, mount)
    base = SERVED.url + mount
    for ask in (
        lambda: asked.sentence_similarity(QUERY, DOCUMENTS, model=f"{base}/similarity"),
        lambda: asked.feature_extraction(QUERY, model=f"{base}/embed"),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            await done(ask())
        assert refused.value.response.status_code == 404

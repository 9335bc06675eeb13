"""Rankings as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from whyrank.errors import InvalidRequest
from whyrank.events import Event
from whyrank.fan_out import fan_out
from whyrank.serving.context import service_of
from whyrank.serving.examples import RERANK, examples
from whyrank.serving.handlers import check_body, model_of, with_tenant_salt
from whyrank.serving.native.errors import failed, native_router
from whyrank.serving.native.requests import NativeRequest
from whyrank.wire.responses import event_to_dict, to_json

__all__ = ["EVENT_STREAM", "router", "stream_response"]

router = native_router()

_EVENT = {
    "type": "object",
    "description": "One event of the stream.",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["score", "ranking", "delta", "evidence", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
EVENT_STREAM = {"text/event-stream": {"schema": _EVENT, "example": 'event: score\ndata: {"index": 0}\n\n'}}
"""For OpenAPI: the content of a streamed response."""

_EXAMPLES = examples({"Evidence as it is written": RERANK | {"mode": "evidence", "evidence_min_score": 0}})


@router.post("/v1/rerank/stream", summary="Rerank, as it happens", responses={200: {"content": EVENT_STREAM}})
async def rerank_stream(body: Annotated[NativeRequest, _EXAMPLES], raw: Request) -> Response:
    """Rerank as server-sent events: `score` for each document, `ranking`, `delta` and `evidence`, and `done` with all."""
    return await stream_response(body, raw)


@router.post("/playground/stream", include_in_schema=False)
async def playground_stream(body: NativeRequest, raw: Request) -> Response:
    """/v1/rerank/stream for browsers, with their password prompt as the key; vLLM guards /v1 with bearer tokens."""
    return await stream_response(body, raw)


async def stream_response(body: NativeRequest, raw: Request) -> Response:
    check_body(body, raw)
    if body.query is None:
        raise InvalidRequest("a stream answers one 'query'")
    if body.refuses_truncation:
        raise InvalidRequest(
            "truncation is false: a stream sends scores before it knows whether all texts fit; leave one of them out"
        )
    request = with_tenant_salt(body.to_request(), raw)
    events = _unhindered(
        service_of(raw).events(request, live=True, tenant=raw.state.whyrank_salt, model=model_of(body))
    )
    # Refusals are raised before the first event, while a status can still be sent.
    first = await anext(events)
    return StreamingResponse(
        _frames(first, events, raw), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _unhindered(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The same events, produced at the engine's pace: a caller who does not read holds up nothing in the engine."""

    async def work(_: int, emit: Callable[[Event], None]) -> None:
        async with aclosing(events):
            async for event in events:
                emit(event)

    async with aclosing(fan_out(work, 1, 1)) as emitted:
        async for _, event in emitted:
            yield event


async def _frames(first: Event, events: AsyncGenerator[Event, None], raw: Request) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield _frame(**event_to_dict(first))
        try:
            async for event in events:
                yield _frame(**event_to_dict(event))
        except Exception as error:  # the status has been sent: only the stream can carry the error
            yield _frame("error", failed(error, raw)["error"])


def _frame(event: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), to_json(data))

"""Time limits of connections, and of the end: uvicorn alone waits indefinitely for headers, for readers and at shutdown."""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["END_SECONDS", "SHUTDOWN_SECONDS", "LimitedProtocol", "end_within", "limited_connections"]

SHUTDOWN_SECONDS = 5
"""Time from the end of the drain until running requests are cancelled; connections are closed before that."""
END_SECONDS = 30
"""Time from the end of the drain until a process that is still there is ended by force."""
_MAX_HEADER_BYTES = 1 << 16
_STDERR = 2


class LimitedProtocol(HttpToolsProtocol):
    header_seconds = 5.0
    """From the connection, or the first byte of a further request, until its headers are complete."""
    stalled_seconds = 60.0
    """How long a reader may read nothing, and how long a body may continue after its response."""
    closing_seconds = 3.0
    """At shutdown: time for written responses to reach their readers."""

    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _close_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_message = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header_timer, self._write_timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # Slow requests.

    def data_received(self, data: bytes) -> None:
        if not self._in_message and self._header_timer is None:
            self._start_header_timer()
        super().data_received(data)
        if self._header_timer is not None and not self._in_message:
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self.transport.abort()

    def on_headers_complete(self) -> None:
        self._in_message = True
        self._header_bytes = 0
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and self._close_timer is None:
            self._close_timer = self.loop.call_later(self.stalled_seconds, self._close_unfinished)

    def _close_unfinished(self) -> None:
        self._close_timer = None
        if self._in_message and self.cycle.response_complete:
            self.transport.abort()

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.header_seconds, self._headers_are_late)

    def _headers_are_late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:  # the next request on a connection whose response is still in progress
            self._start_header_timer()

    # Slow readers.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def _watch_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
        unread = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.stalled_seconds, self._check_writing, unread)

    def _check_writing(self, unread: int) -> None:
        self._write_timer = None
        if not (self.flow.write_paused or self.transport.is_closing()):
            return
        if self.transport.get_write_buffer_size() < unread:
            self._watch_writing()
        else:
            self.transport.abort()

    # The end of the server.

    def shutdown(self) -> None:
        super().shutdown()
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._close_timer = self.loop.call_later(self.closing_seconds, self.transport.abort)


@asynccontextmanager
async def limited_connections(app: FastAPI) -> AsyncIterator[None]:
    """Lifespan that gives vLLM's server these limits; vLLM has no option for uvicorn's protocol class."""
    config = app.state.server.config
    config.http_protocol_class = LimitedProtocol
    config.timeout_graceful_shutdown = SHUTDOWN_SECONDS
    yield


def end_within(seconds: float) -> None:
    """Ends this process by force after that time, with code 1, and says where its threads were. asyncio, vLLM and Python wait
    for tasks and threads at the end for as long as they take. On Linux, engines end with their parent."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)

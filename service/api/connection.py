"""A client's connection: HTTP/1.1 as uvicorn reads it, made strict where a peer could hold or mislead the service."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.problems import MEDIA_TYPE, problem_of
from service.errors import BadRequest

_MOST_SILENT = 64 * 1024  # bytes that are neither a finished head nor a body; about, since they come in larger pieces


class Connection(HttpToolsProtocol):
    """What it adds to its base:

    - A head (request line and headers) ends within the keep-alive time and about 64 KiB, or the connection is closed.
    - A request that asks for another protocol (Java's client offers HTTP/2 with its first one) is answered in HTTP/1.1,
      with its body; the parser alone would take the body for the other protocol's.
    - Trailers after a chunked body are dropped, so that they cannot pass for headers.
    - Blanks around a header's value are no part of it (RFC 9110, 5.5).
    - What is no HTTP is answered as a problem, as every error is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._silent = 0
        self._in_head, self._resuming = True, False
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first head its time."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the time go."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._unset_keepalive_if_required()
        if self._in_head and self._late is None:
            self._await_head()
        self._silent += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._stay_with_http(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("this is not a request of HTTP/1.0 or 1.1")
            return
        if self._silent > _MOST_SILENT:
            self.send_400_response(f"headers of more than {_MOST_SILENT} bytes")

    def _stay_with_http(self, rest: bytes) -> None:
        """Read the rest of the request, its body and then the next ones, with a parser that was asked for no upgrade."""
        framing = [pair for pair in self.scope["headers"] if pair[0] in (b"content-length", b"transfer-encoding")]
        head = b"".join(b"%b: %b\r\n" % pair for pair in framing)
        self.parser = httptools.HttpRequestParser(self)
        self._resuming = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % head)
        self._resuming = False
        self.parser.feed_data(rest)

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._resuming:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        if not self._resuming:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        if self._in_head:
            super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """The head is there: the request goes to the app."""
        if not self._resuming:
            self._head_came()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole, unless its body is still to be read as it stays with HTTP."""
        if self.parser.should_upgrade():
            return
        self._silent, self._in_head = 0, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read and close, since nobody knows where the next request would begin."""
        if self.transport.is_closing():
            return
        problem = problem_of(BadRequest(msg), uuid.uuid4().hex)
        headers = (
            f"content-type: {MEDIA_TYPE}\r\nx-request-id: {problem.request_id}\r\nconnection: close\r\n"
            f"content-length: {len(problem.model_dump_json())}\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[problem.status] + headers.encode() + problem.model_dump_json().encode())
        self.transport.close()

    def _await_head(self) -> None:
        self._late = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _head_came(self) -> None:
        self._silent, self._in_head = 0, False
        if self._late is not None:
            self._late.cancel()
            self._late = None

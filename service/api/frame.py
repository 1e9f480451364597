"""The frame around every request, as one pure ASGI middleware: request id, host check, counting, draining."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import answer_problem
from service.api.state import ServiceState
from service.errors import Forbidden, NotReady
from service.settings import is_loopback

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_ALWAYS = {"/healthz", "/readyz", "/metrics"}  # answered while draining, from any host, without a key


class Frame:
    """Wraps the app. Every answer carries X-Request-Id: the caller's own, or a new one."""

    def __init__(self, app: ASGIApp, state: ServiceState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def send_framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        counted = scope["path"] not in _ALWAYS
        self.state.lifecycle.in_flight += counted
        try:
            refusal = self._refusal(scope["path"], headers)
            if refusal is not None:
                answer = await answer_problem(Request(scope), refusal)
                await answer(scope, receive, send_framed)
            else:
                await self.app(scope, receive, send_framed)
        finally:
            self.state.lifecycle.in_flight -= counted
            route = scope.get("route")
            endpoint = getattr(route, "path", "unknown")
            self.state.metrics.requests.labels(endpoint, str(status)).inc()

    def _refusal(self, path: str, headers: Headers) -> Exception | None:
        if path in _ALWAYS:
            return None
        if self.state.lifecycle.draining:
            self.state.metrics.rejected.labels("draining").inc()
            return NotReady("the service is shutting down", retry_after=5)
        if self.state.keys.keys or self.state.settings.insecure:
            return None
        # without keys only this machine may ask: a web page that rebinds its name to 127.0.0.1 shows in Host
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if not is_loopback(name.strip("[]")):
            return Forbidden(f"host {host!r}: without API keys the service answers to localhost only")
        return None

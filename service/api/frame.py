"""The frame around every request, as one pure ASGI middleware: request id, host check, HEAD, counting, draining."""

from __future__ import annotations

import asyncio
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import key_in
from service.api.problems import answer_problem
from service.api.state import ServiceState
from service.errors import BadRequest, Forbidden, NotReady
from service.settings import is_loopback

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_SAFE = {"GET", "HEAD", "OPTIONS"}
_ONCE = frozenset(  # headers of which a second one would be ignored
    {
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"idempotency-key",
        b"x-api-key",
        b"x-deadline-ms",
        b"x-image-shape",
        b"x-request-id",
    }
)
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
        headless = scope["method"] == "HEAD"
        if headless:  # what GET would answer, without its body
            scope = {**scope, "method": "GET"}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status, ended = 0, False

        async def send_framed(message: Message) -> None:
            nonlocal status, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            elif headless:
                message, ended = {"type": "http.response.body"}, True
            await send(message)

        counted = scope["path"] not in _ALWAYS
        self.state.lifecycle.in_flight += counted
        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                raise refusal
            await self.app(scope, receive, send_framed)
        except asyncio.CancelledError:  # a drain's time is over
            if status or not self.state.lifecycle.draining:
                raise
            answer = await answer_problem(Request(scope), NotReady("the service is shutting down", retry_after=5))
            await answer(scope, receive, send_framed)
        except Exception as error:
            if status:  # the answer has begun: only breaking the connection tells that it is not whole
                raise
            answer = await answer_problem(Request(scope), error)
            await answer(scope, receive, send_framed)
        finally:
            self.state.lifecycle.in_flight -= counted
            self.state.metrics.requests.labels(_endpoint(scope), str(status or 500)).inc()

    def _refusal(self, scope: Scope, headers: Headers) -> Exception | None:
        if scope["path"] in _ALWAYS:
            return None
        hosts = headers.getlist("host")
        if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):  # RFC 9112, 3.2
            return BadRequest("a request names one Host")
        given = [name for name, _ in scope["headers"] if name in _ONCE]
        if repeated := {name.decode() for name in given if given.count(name) > 1}:
            return BadRequest(f"header {', '.join(sorted(repeated))} is there twice")
        if self.state.lifecycle.draining:
            self.state.metrics.rejected.labels("draining").inc()
            return NotReady("the service is shutting down", retry_after=5)
        if scope["method"] not in _SAFE and key_in(headers) is None and _of_another_site(headers):
            return Forbidden("another web site's page sent this; only the console's own pages and API clients may")
        if self.state.keys.required or self.state.settings.insecure:
            return None
        # without keys only this machine may ask: a web page that rebinds its name to 127.0.0.1 shows in Host, which every
        # browser sends, though an old client's HTTP/1.0 may not
        named = [("host", host) for host in hosts]
        if "origin" in headers:
            named.append(("origin", headers["origin"].partition("://")[2]))
        for header, place in named:
            if not is_loopback(re.sub(r":\d+$", "", place).strip("[]").lower().removesuffix(".")):
                return Forbidden(f"{header} {headers.get(header)!r}: without API keys only this machine is answered")
        return None


def _of_another_site(headers: Headers) -> bool:
    """Whether a page of another origin makes a browser send this. Where the browser says so itself, that holds, since a proxy
    may have changed Host; else Origin and Host tell. What is no browser sends neither."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _endpoint(scope: Scope) -> str:
    """The route's own path, so that clients cannot make up series; also of requests that were refused before routing."""
    path: str = scope["path"]
    known = any(getattr(route, "path", None) == path for route in scope["app"].routes)
    return str(getattr(scope.get("route"), "path", path if known else "unknown"))

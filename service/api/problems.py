"""Errors -> RFC 9457 problem answers: the one place that does it."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.api.schemas import Problem
from service.api.state import state_of
from service.errors import BundleRefused, FlawscribeError

log = logging.getLogger("flawscribe.api")
MEDIA_TYPE = "application/problem+json"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ADVICE = {404: "there is nothing at this path; /docs lists all paths", 405: "this path takes other methods: see Allow"}


def problem_of(error: Exception, request_id: str) -> Problem:
    """The problem that an error is answered with; an unexpected one tells nothing of the inside."""
    if isinstance(error, FlawscribeError):
        kind, title, status, detail = error.type, error.title, error.status, error.detail
    elif isinstance(error, RequestValidationError):
        kind, title, status = "/problems/invalid-parameter", "Invalid parameter", 422
        detail = "; ".join(_told(".".join(map(str, item["loc"])), item) for item in error.errors())
    elif isinstance(error, HTTPException):
        kind, status = "about:blank", error.status_code
        title = HTTPStatus(status).phrase
        detail = _ADVICE.get(status, error.detail)
    else:
        kind, title, status = "about:blank", "Internal error", 500
        detail = "an unexpected error; the log has it under this request_id"
    printable = detail.encode("utf-8", "replace").decode()  # a client's JSON may hold half a surrogate pair
    return Problem(type=kind, title=title, status=status, detail=printable, request_id=request_id)


def _told(place: str, item: dict[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return f"{place.replace('query.', 'query parameter ')} is not known here; /docs lists those that are"
    return f"{place}: {item['msg']}"


def _allowed(request: Request) -> list[str]:
    """The methods of the request's path: of all its routes, where the framework names those of the first."""
    routes = request.app.router.routes
    taken = [
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ["GET", "HEAD", *taken[1:]] if taken[:1] == ["GET"] else taken  # the frame answers HEAD by what GET says


async def answer_problem(request: Request, error: Exception) -> Response:
    """Any error as application/problem+json, with Retry-After where the error knows it."""
    request_id = getattr(request.state, "request_id", "")
    problem = problem_of(error, request_id)
    if isinstance(error, BundleRefused):
        problem.detail = state_of(request).without_folder(problem.detail)
    if problem.status == 500:
        log.error("request %s failed", request_id, exc_info=error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if problem.status == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after)))
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(problem.model_dump_json(), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Answer every error of `app` by `answer_problem`."""
    for kind in (FlawscribeError, RequestValidationError, HTTPException):  # the frame answers whatever else comes up
        app.add_exception_handler(kind, answer_problem)

"""POST /login, POST /logout: a key for a session and back; and who looks at the console's pages."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.api.access import SCOPES
from service.api.sessions import COOKIE, LIFE_S
from service.api.state import state_of
from service.api.wire import read_body, validated
from service.console.shell import Viewer
from service.errors import InvalidParameter, Unauthorized, UnsupportedMediaType

router = APIRouter(include_in_schema=False)


class _Login(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str


@router.post("/login")
async def login(request: Request) -> Response:
    """Trade an API key, {"key": "…"}, for a session cookie."""
    state = state_of(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType('a login is JSON: {"key": "…"}')
    body = await read_body(request, state.small_body)
    try:
        given = validated(_Login, body)
    except ValidationError as error:
        raise InvalidParameter('a login is {"key": "…"}') from error
    if not state.keys.required:
        raise InvalidParameter("this service asks for no keys: there is nothing to log in to")
    token, _ = state.sessions.begin(given.key.strip())
    response = Response(status_code=204)
    response.set_cookie(COOKIE, token, max_age=LIFE_S, **_manner(request))
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session of the cookie."""
    state = state_of(request)
    if state.sessions.key_of(request) is not None:
        state.sessions.end(request)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, **_manner(request))
    return response


def _manner(request: Request) -> dict[str, Any]:
    return {"httponly": True, "samesite": "strict", "secure": request.url.scheme == "https", "path": "/"}


def viewer_of(request: Request) -> Viewer | None:
    """Who asks for a page: everybody may see everything where no keys are needed; None without a session or a valid key."""
    state = state_of(request)
    storing, llm = state.settings.store, state.llm is not None
    try:
        key = state.key_of(request)
    except Unauthorized:
        return None
    if key is None:
        return Viewer(frozenset(SCOPES), storing=storing, llm=llm)
    session = state.sessions.of(request)
    csrf = session[0].csrf if session is not None else ""
    return Viewer(frozenset(key.scopes), key.note or key.id, csrf, keys=True, storing=storing, llm=llm)

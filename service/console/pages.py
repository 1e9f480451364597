"""The console's pages and their static files, as one router."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from service import __version__
from service.console.shell import STATIC, Page, Shell, Viewer

PAGES = (
    Page("inspect", "/", "detect"),
    Page("queue", "/console/queue", "review"),
    Page("history", "/console/history", "review"),
    Page("reports", "/console/reports", "review"),
    Page("models", "/console/models", "review"),
    Page("train", "/console/train", "admin"),
)
# a path of this service; browsers read a backslash as a slash, and leave out tabs and new lines
_WITHIN = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")


def make_router(viewer_of: Callable[[Request], Viewer | None]) -> APIRouter:
    """The pages for those whom `viewer_of` knows; anybody else is sent to /login first."""
    router = APIRouter(include_in_schema=False)
    shell = Shell(PAGES, __version__)
    static = StaticFiles(directory=STATIC)

    def add(page: Page) -> None:
        async def show(request: Request) -> Response:
            viewer = viewer_of(request)
            if viewer is None:
                asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"/login?next={quote(asked)}", 303)  # a browser keeps the hash by itself
            if not viewer.may(page.scope):
                return shell.render("refused", viewer, status=403, scope=page.scope)
            return shell.render(page.name, viewer)

        router.add_api_route(page.path, show, methods=["GET"], name=page.name)

    for page in PAGES:
        add(page)

    @router.get("/login")
    async def login(request: Request) -> Response:
        viewer = viewer_of(request)
        if viewer is None:
            return shell.render("login", Viewer(frozenset(), keys=True))
        asked = request.query_params.get("next", "")
        return RedirectResponse(asked if _WITHIN.fullmatch(asked) else _first(viewer), 303)

    @router.get("/console/static/{name:path}")
    async def file(request: Request, name: str) -> Response:
        """Stylesheets and modules; asked for anew each time, and answered 304 as long as they are the same."""
        response = await static.get_response(name, request.scope)
        response.headers["cache-control"] = "no-cache"
        response.headers["x-content-type-options"] = "nosniff"
        return response

    return router


def _first(viewer: Viewer) -> str:
    """The path of the first page that the viewer may see."""
    return next((page.path for page in PAGES if viewer.may(page.scope)), "/")

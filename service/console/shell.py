"""What every page shares: who looks, the texts, the templates and the headers that fence a page in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

STATIC = Path(str(files("service.console") / "static"))
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the console. `name`: of its template, module and texts; `scope`: what a key needs to see it."""

    name: str
    path: str
    scope: str


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page, as the API would see them.

    `name`: the key's id, None where no keys are needed; `csrf`: goes with every unsafe request of the session;
    `keys`: whether the API asks for keys; `storing`: what is kept of an inspection unless a request says: none, record,
    image; or off: nothing, whatever it says; `llm`: whether one is there to be asked.
    """

    scopes: frozenset[str]
    name: str | None = None
    csrf: str = ""
    keys: bool = False
    storing: str = "record"
    llm: bool = False

    def may(self, scope: str) -> bool:
        """Whether the key covers `scope`; admin covers all."""
        return scope in self.scopes or "admin" in self.scopes


class _Environment(Environment):
    """In which `t.keys` is the text of that name, not the method of a dict."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)


class Shell:
    """Renders pages. The catalogue of texts is `texts/en.yaml`; a translation is a file like it."""

    def __init__(self, pages: Sequence[Page], version: str) -> None:
        self._pages = pages
        self._version = version
        self._environment = _Environment(
            loader=PackageLoader("service.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._texts: dict[str, Any] = yaml.safe_load(
            (files("service.console") / "texts" / "en.yaml").read_text("utf-8")
        )

    def render(self, name: str, viewer: Viewer, *, status: int = 200, **context: Any) -> HTMLResponse:
        """The page `name` for `viewer`. The module gets its texts and the viewer as JSON inside the page."""
        own = self._texts["pages"][name]
        told = {
            "texts": {"shell": self._texts["shell"], "verdicts": self._texts["verdicts"], "page": own},
            "viewer": {
                "scopes": sorted(scope for scope in ("detect", "review", "admin") if viewer.may(scope)),
                "csrf": viewer.csrf,
                "keys": viewer.keys,
                "storing": viewer.storing,
            },
        }
        html = self._environment.get_template(f"{name}.html").render(
            page=name,
            pages=[page for page in self._pages if viewer.may(page.scope)],
            viewer=viewer,
            all=self._texts,
            t=own,
            told=told,
            version=self._version,
            **context,
        )
        return HTMLResponse(html, status, HEADERS)

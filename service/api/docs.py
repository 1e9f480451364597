"""GET /docs: the API on one page that references nothing outside itself (FastAPI's own page needs a CDN)."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code{font-size:.95em}h2{margin-top:2rem}summary{cursor:pointer}pre{overflow:auto;padding:.5rem;border:1px solid #8888}"
)


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Every operation with its parameters, bodies and answers, read off the OpenAPI document."""
    document = request.app.openapi()
    parts = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(document["info"]["title"])
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title} API</title><style>{_STYLE}</style><h1>{title} {escape(document['info']['version'])}</h1>"
        f"<p>{escape(document['info'].get('description', ''))} Machine-readable: <a href=openapi.json>openapi.json</a></p>"
        + "".join(parts)
    )
    return HTMLResponse(page)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{escape(item['name'])}</code> ({escape(item['in'])}) {escape(item.get('description', ''))}</li>"
        for item in operation.get("parameters", [])
    )
    bodies = ", ".join(f"<code>{escape(kind)}</code>" for kind in operation.get("requestBody", {}).get("content", {}))
    answers = ", ".join(
        f"<code>{escape(code)}</code> {escape(answer.get('description', ''))}"
        for code, answer in operation.get("responses", {}).items()
    )
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p><b>{escape(operation.get('summary', ''))}</b></p>"
        f"<p>{escape(operation.get('description', ''))}</p>"
        + (f"<p>Parameters:</p><ul>{parameters}</ul>" if parameters else "")
        + (f"<p>Body: {bodies}</p>" if bodies else "")
        + f"<p>Answers: {answers}</p>"
    )

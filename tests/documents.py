"""`python -m tests.documents` writes openapi.json, docs/api.md and the README's configuration table; tests check that all
are true. Here, too: what the pages hold, so that tests can try it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.api.app import create_app
from service.settings import PREFIX, Settings
from tests.reference import reference_page

ROOT = Path(__file__).resolve().parents[1]
API_PAGE = ROOT / "docs" / "api.md"
SETTINGS_MARKS = ("<!-- settings: begin (made by `make openapi`) -->", "<!-- settings: end -->")
ANSWER_MARKS = ("<!-- answer: begin (made by `make example`) -->", "<!-- answer: end -->")
_BLOCK = re.compile(r"^(?P<before>[^\n]*)\n(?:\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page. `not_run`: why no test runs it, as the page says in a comment before it; else None."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None


def pages() -> list[Path]:
    """README and the pages of docs/, without the decisions."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        reason = _NOT_RUN.search(match["before"])
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"], match["text"], reason and reason[1]))
    return found


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the app."""
    app = create_app(Settings(models_dir=Path("/nonexistent")))
    try:
        return app.openapi()
    finally:
        app.state.service.inspector.close()


def openapi_text() -> str:
    """The OpenAPI document as committed."""
    return json.dumps(openapi(), indent=1, sort_keys=True) + "\n"


def settings_table() -> str:
    """The configuration as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if str(field.default) in ("None", "PydanticUndefined", "") else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def readme_with_table(text: str) -> str:
    """The README with its table made anew."""
    return between(text, SETTINGS_MARKS, settings_table())


def between(text: str, marks: tuple[str, str], content: str) -> str:
    """The text with `content` between two marks."""
    begin, end = (re.escape(mark) for mark in marks)
    return re.sub(f"{begin}.*?{end}", lambda _: f"{marks[0]}\n{content}\n{marks[1]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    (ROOT / "openapi.json").write_text(openapi_text())
    API_PAGE.write_text(reference_page(openapi()))
    readme = ROOT / "README.md"
    readme.write_text(readme_with_table(readme.read_text()))

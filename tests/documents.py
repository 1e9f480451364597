"""`python -m tests.documents` writes openapi.json and the README's configuration table; tests check that both are true."""

from __future__ import annotations

import json
import re
from pathlib import Path

from service.api.app import create_app
from service.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[1]
SETTINGS_MARKS = ("<!-- settings: begin (made by `make openapi`) -->", "<!-- settings: end -->")
ANSWER_MARKS = ("<!-- answer: begin (made by `make example`) -->", "<!-- answer: end -->")


def openapi_text() -> str:
    """The OpenAPI document of the app, as committed."""
    app = create_app(Settings(models_dir=Path("/nonexistent")))
    try:
        return json.dumps(app.openapi(), indent=1, sort_keys=True) + "\n"
    finally:
        app.state.service.inspector.close()


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
    readme = ROOT / "README.md"
    readme.write_text(readme_with_table(readme.read_text()))

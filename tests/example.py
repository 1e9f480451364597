"""`python -m tests.example` asks the bundled model about a generated part, and writes README's answer and its picture."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from service.samples import write_dataset
from tests.contract.serving import running
from tests.documents import ANSWER_MARKS, ROOT, between

PART = "test/black_thread/000.png"
PICTURE = ROOT / "docs" / "overlay.jpg"


def ask() -> tuple[dict[str, Any], bytes]:
    """The answer of the bundled model to the README's part, and its overlay as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset("polka-dot", Path(folder), 3, 7)
        files = {"image": (Path(folder) / PART).read_bytes()}
    with running(ROOT / "models", model="polka-dot") as service:
        answer: dict[str, Any] = service.client.post("/detect", files=files).json()
        return answer, service.client.post("/detect", files=files, headers={"accept": "image/png"}).content


def shortened(value: Any) -> Any:
    """The same answer with numbers of four digits, for reading."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: shortened(inner) for key, inner in value.items()}
    return [shortened(inner) for inner in value] if isinstance(value, list) else value


def written(answer: dict[str, Any]) -> str:
    """The answer as Markdown: one field a line, whatever fits on it."""
    head = {key: value for key, value in answer.items() if key != "results"}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    (result,) = answer["results"]
    fields = [f"  {json.dumps(key)}: {json.dumps(shortened(value))}" for key, value in result.items()]
    body = "\n".join(["{", *lines, ' "results": [{', ",\n".join(fields), " }]", "}"])
    return f"```json\n{body}\n```\n\n![the overlay: the thread in red, outlined](docs/{PICTURE.name})"


def main() -> None:
    """Write both."""
    answer, overlay = ask()
    with Image.open(io.BytesIO(overlay)) as drawn:
        drawn.resize((drawn.width // 2, drawn.height // 2), Image.Resampling.LANCZOS).save(PICTURE, quality=85)
    readme = ROOT / "README.md"
    readme.write_text(between(readme.read_text(), ANSWER_MARKS, written(answer)))


if __name__ == "__main__":
    main()

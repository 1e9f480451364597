"""`python -m tests.example` asks the bundled model about a generated part, and writes README's answer, its picture, and the
answer in words of the quick start."""

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
QUICK_START = ROOT / "docs" / "quick-start.md"
_LINES = (  # of the quick start: what somebody reads first, a few fields a line
    ("id",),
    ("anomaly_score", "threshold", "threshold_method", "review_threshold"),
    ("verdict", "is_anomalous", "p_value"),
)
_REGION = ("box", "area_share", "peak_score", "kind")
_WORDS = (("label", "description", "severity"), ("probable_causes",), ("recommended_action", "source"))


def ask() -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """The answer of the bundled model to the README's part, its overlay as PNG, and the answer in words."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset("polka-dot", Path(folder), 3, 7)
        files = {"image": (Path(folder) / PART).read_bytes()}
    with running(ROOT / "models", model="polka-dot", products_dir=ROOT / "deploy" / "products") as service:
        answer: dict[str, Any] = service.client.post("/detect", files=files).json()
        overlay = service.client.post("/detect", files=files, headers={"accept": "image/png"}).content
        return answer, overlay, service.client.post("/classify", files=files).json()


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


def told(answer: dict[str, Any]) -> str:
    """The answer in words as Markdown, its main fields alone."""
    (result,) = answer["results"]

    def line(source: dict[str, Any], names: tuple[str, ...]) -> str:
        return json.dumps({name: shortened(source[name]) for name in names}, ensure_ascii=False)[1:-1]

    regions = ", ".join(f"{{{line(region, _REGION)}}}" for region in result["regions"])
    words = ",\n   ".join(line(result["classification"], names) for names in _WORDS)
    fields = [line(result, names) for names in _LINES]
    fields += [f'"regions": [{regions}]', f'"classification": {{\n   {words}}}', line(result, ("stored",))]
    body = ",\n  ".join(fields)
    head = line(answer, ("request_id", "model"))
    return f'```json\n{{{head},\n "results": [{{\n  {body}\n }}]}}\n```'


def main() -> None:
    """Write all three."""
    answer, overlay, worded = ask()
    with Image.open(io.BytesIO(overlay)) as drawn:
        drawn.resize((drawn.width // 2, drawn.height // 2), Image.Resampling.LANCZOS).save(PICTURE, quality=85)
    readme = ROOT / "README.md"
    readme.write_text(between(readme.read_text(), ANSWER_MARKS, written(answer)))
    QUICK_START.write_text(between(QUICK_START.read_text(), ANSWER_MARKS, told(worded)))


if __name__ == "__main__":
    main()

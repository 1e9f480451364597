"""`python -m tests.examples_in_words` writes docs/captions.png: the origin's six examples on polka-dot fabric, with the words
that rules find and those of an LLM (a scripted one: what it says is written down here, how it is asked is real)."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.captions.composite import composite
from service.samples import render
from tests.contract.serving import running
from tests.documents import ROOT
from tests.llm_server import LlmServer, completion, entry
from tests.networks import png

SAID = {
    None: ("", ""),
    "black_thread": ("Foreign black thread is present on the fabric.", "Brush it off and look again."),
    "blue_stain": ("Blue stain spreads over a dot.", "Check the printing head for leaks."),
    "red_spot": ("Small red spot is visible on the fabric.", "Cut the piece out."),
    "needle": ("Thin metal needle lies on the fabric.", "Stop the line and find every piece."),
    "green_mark": ("Green mark is drawn across the dots.", "Wash it out."),
}
WIDTH, HEIGHT, TEXT = 400, 225, 520


def main() -> None:
    """Ask the bundled model for each example, twice, and draw the page."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, LlmServer() as llm:
        card = (ROOT / "deploy" / "products" / "polka-dot.yaml").read_text()
        (Path(folder) / "polka-dot.yaml").write_text(card.replace("may_leave: false", "may_leave: true"))
        models = ROOT / "models"
        with (
            running(models, model="polka-dot", products_dir=ROOT / "deploy" / "products", store="none") as plain,
            running(
                models,
                model="polka-dot",
                products_dir=Path(folder),
                store="none",
                llm_base_url=llm.base_url,
                llm_model="scripted",
            ) as talking,
        ):
            for index, (flaw, (sentence, action)) in enumerate(SAID.items()):
                rgb = render("polka-dot", np.random.default_rng(100 + index), flaw).image
                told = entry(label=flaw, description=sentence, action=action)
                entries = [told | {"region": number} for number in range(1, 9)]
                llm.script(completion(json.dumps({"picture": entries[0], "regions": entries})))
                answers = [
                    service.client.post(
                        "/classify?include=regions,overlay,mask",
                        content=png(rgb),
                        headers={"content-type": "image/png"},
                    ).json()["results"][0]
                    for service in (plain, talking)
                ]
                rows.append(draw(rgb, *answers))
    page = Image.new("RGB", (2 * WIDTH + TEXT + 40, len(rows) * (HEIGHT + 10) + 10), "white")
    for index, row in enumerate(rows):
        page.paste(row, (10, 10 + index * (HEIGHT + 10)))
    page.save(ROOT / "docs" / "captions.png", optimize=True)
    print(ROOT / "docs" / "captions.png")


def draw(rgb: np.ndarray, rules: dict[str, Any], llm: dict[str, Any]) -> Image.Image:
    """Overlay, composite of the strongest region, and the words."""
    row = Image.new("RGB", (2 * WIDTH + TEXT + 20, HEIGHT), "white")
    overlay = Image.open(io.BytesIO(base64.b64decode(rules["overlay"]["data"]))).convert("RGB")
    row.paste(overlay.resize((WIDTH, HEIGHT)), (0, 0))
    if rules["regions"]:
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(rules["mask"]["data"]))).convert("L")) > 0
        box = tuple(rules["regions"][0]["box"])
        pair = Image.fromarray(composite(rgb, mask, box))
    else:
        pair = Image.fromarray(np.concatenate([rgb, np.zeros_like(rgb)], axis=1))
    pair.thumbnail((WIDTH, HEIGHT))
    row.paste(pair, (WIDTH + 10 + (WIDTH - pair.width) // 2, (HEIGHT - pair.height) // 2))
    pen, font, bold = ImageDraw.Draw(row), ImageFont.load_default(15), ImageFont.load_default(18)
    y = 8
    score = f"{rules['verdict']}, score {rules['anomaly_score']:.2f} of {rules['threshold']:.2f}"
    pen.text((2 * WIDTH + 20, y), score, "black", bold)
    for who, result in (("rules", rules), ("LLM", llm)):
        words = result["classification"]
        y += 34
        pen.text((2 * WIDTH + 20, y), f"{who} ({words['source']}): {words['label']}, {words['severity']}", "#06c", font)
        for line in wrap(words["description"], 62) + wrap(f"-> {words['recommended_action']}", 62)[:2]:
            y += 20
            pen.text((2 * WIDTH + 20, y), line, "black", font)
    return row


if __name__ == "__main__":
    main()

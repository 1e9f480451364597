"""python -m tests.console.screenshots: docs/images/console-*.png, of a real service with the bundled model and generated parts."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.samples import write_dataset
from tests.console.conftest import ARGUMENTS, CHROMIUM
from tests.contract.serving import Service, running

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
REVIEWED = {
    "black_thread": ("loose yarn end from the loom", "yarn guide cleaned"),
    "red_spot": ("marking pen", "piece cut out"),
    "needle": ("broken needle of the sewing head", "roll quarantined"),
}


def main() -> None:
    """Make them all anew."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as player:
        parts = Path(folder) / "parts"
        write_dataset("polka-dot", parts, good=6, seed=11, flawed=3)
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        with running(
            ROOT / "models", model="polka-dot", products_dir=ROOT / "deploy" / "products", deadline_ms=300_000
        ) as service:
            fill(service, parts)
            for name, take in PICTURES.items():
                take(service, browser, parts, IMAGES / f"console-{name}.png")
                print(f"console-{name}.png")
        browser.close()


def fill(service: Service, parts: Path) -> None:
    """A shift's work: good and flawed parts, the first of each kind reviewed."""
    good = sorted((parts / "test" / "good").glob("*.png"))
    for number, path in enumerate(good[:3]):
        send(service, path, number)
    for kind, (cause, action) in REVIEWED.items():
        for number, path in enumerate(sorted((parts / "test" / kind).glob("*.png"))[:2]):
            seen = send(service, path, 40 + number)
            if number == 0 and seen["verdict"] != "ok":
                said = {"verdict": "right", "label": kind, "cause": cause, "action": action, "who": "Kim"}
                httpx.post(f"{service.url}/inspections/{seen['id']}/review", json=said).raise_for_status()


def send(service: Service, path: Path, number: int) -> dict[str, Any]:
    about = {"product": "polka-dot", "lot": "R-2231", "serial": f"{2231000 + number}", "station": "loom 3"}
    with path.open("rb") as stream:
        answer = httpx.post(
            f"{service.url}/classify?store=image", files={"image": (path.name, stream)}, data=about, timeout=300
        )
    found: dict[str, Any] = answer.raise_for_status().json()["results"][0]
    return found


def page_of(
    service: Service, browser: Browser, path: str, *, width: int = 1280, height: int = 860, **more: Any
) -> Page:
    context = browser.new_context(
        base_url=service.url, viewport={"width": width, "height": height}, locale="en-GB", **more
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(path)
    return page


def whole(page: Page) -> None:
    """Wait until every picture in the window is there; those outside it are not loaded yet."""
    assert page.viewport_size is not None
    for picture in page.locator("main img:visible").all():
        box = picture.bounding_box()
        if box is not None and box["y"] < page.viewport_size["height"]:
            expect(picture).not_to_have_js_property("naturalWidth", 0, timeout=60_000)


def keep(page: Page, path: Path) -> None:
    """A picture of the window, in 256 colours: small, and good enough for a page of flat colours."""
    seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    seen.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    page.context.close()


def inspect(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/")
    chosen = [parts / "test" / kind / "001.png" for kind in ("black_thread", "good", "red_spot")]
    page.locator("#files").set_input_files(chosen)
    expect(page.locator("#strip .badge")).to_have_count(3, timeout=300_000)
    page.locator("canvas.heat").wait_for()
    keep(page, path)


def queue(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/console/queue")
    page.locator(".past-flaw").first.wait_for()
    page.keyboard.press("r")
    page.keyboard.press("1")
    whole(page)
    keep(page, path)


def history(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/console/history", color_scheme="dark")
    page.locator("#rows tr").first.wait_for()
    page.locator("#live[data-state=on]").wait_for()
    whole(page)
    keep(page, path)


def reports(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/console/reports")
    page.frame_locator("#report").get_by_text("Flaws by type").wait_for()
    keep(page, path)


def phone(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/", width=375, height=780, has_touch=True, is_mobile=True, device_scale_factor=1)
    page.locator("#files").set_input_files(parts / "test" / "red_spot" / "000.png")
    page.locator("canvas.heat").wait_for(timeout=300_000)
    page.locator(".inspection").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#shown').scrollIntoView()")
    keep(page, path)


PICTURES: dict[str, Callable[[Service, Browser, Path, Path], None]] = {
    "inspect": inspect,
    "queue": queue,
    "history": history,
    "reports": reports,
    "phone": phone,
}

if __name__ == "__main__":
    main()

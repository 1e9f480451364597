"""python -m tests.console.screenshots [NAME …]: docs/images/console-*.png, of a real service with the bundled model, parts that
are generated, and a training that is made for it."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from service.api.access import create_key
from service.samples import write_dataset
from tests.console.conftest import ARGUMENTS, CHROMIUM
from tests.console.parts import review
from tests.contract.serving import Service, running, wait_until

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
LARGEST = 200_000  # bytes of a picture in the repository
REVIEWED = {
    "black_thread": ("loose yarn end from the loom", "yarn guide cleaned"),
    "red_spot": ("marking pen", "piece cut out"),
    "needle": ("broken needle of the sewing head", "roll quarantined"),
}


def main() -> None:
    """Make them anew: those named, or all."""
    wanted = sys.argv[1:] or list(PICTURES)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as player:
        folder = Path(temporary)
        parts = folder / "parts"
        write_dataset("polka-dot", parts, good=6, seed=11, flawed=3)
        shutil.copytree(ROOT / "models" / "polka-dot" / "1", folder / "models" / "polka-dot" / "1")
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        with running(
            folder / "models",
            model="polka-dot",
            products_dir=ROOT / "deploy" / "products",
            trainings_dir=folder / "trainings",
            background_nice=0,
            deadline_ms=300_000,
        ) as service:
            fill(service, parts)
            for name in wanted:
                PICTURES[name](service, browser, parts, IMAGES / f"console-{name}.png")
                print(f"console-{name}.png")
        browser.close()


def fill(service: Service, parts: Path) -> None:
    """A shift's work: good and flawed parts, the good ones and the first of each kind of flaw reviewed."""
    good = sorted((parts / "test" / "good").glob("*.png"))
    for number, path in enumerate(good[:3]):
        seen = send(service, path, number)
        review(service, seen["id"], verdict="right" if seen["verdict"] == "ok" else "overkill")
    for kind, (cause, action) in REVIEWED.items():
        for number, path in enumerate(sorted((parts / "test" / kind).glob("*.png"))[:2]):
            seen = send(service, path, 40 + number)
            if number == 0 and seen["verdict"] != "ok":
                review(service, seen["id"], label=kind, cause=cause, action=action)


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


_UNLOADED = """() => [...document.images].filter((each) => {
  const box = each.getBoundingClientRect();
  const seen = box.width && box.top < innerHeight && box.bottom > 0;
  return seen && !(each.complete && each.naturalWidth);
}).map((each) => each.src)"""


def whole(page: Page) -> None:
    """Wait until nothing is being loaded, and every picture in the window is there to its last pixel; those below may not be."""
    expect(page.locator(".busy:visible")).to_have_count(0)
    # asked again and again from here: a promise is as good as true to wait_for_function
    try:
        wait_until(lambda: page.evaluate(_UNLOADED) == [])
    except AssertionError:
        raise AssertionError(f"not loaded: {page.evaluate(_UNLOADED)}") from None
    page.evaluate("Promise.all([...document.images].filter((each) => each.complete).map((each) => each.decode()))")


def keep(page: Page, path: Path) -> None:
    """A picture of the window, in as many colours as its size allows."""
    whole(page)
    seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colours in (256, 128, 64, 32):
        seen.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            break
    page.context.close()


def inspect(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/", height=960)
    chosen = [parts / "test" / kind / "001.png" for kind in ("black_thread", "good", "red_spot")]
    files: list[FilePayload] = [
        {"name": f"loom-3-{2231050 + number}.png", "mimeType": "image/png", "buffer": picture.read_bytes()}
        for number, picture in enumerate(chosen)
    ]
    page.locator("#files").set_input_files(files)
    expect(page.locator("#strip .badge")).to_have_count(3, timeout=300_000)
    page.locator("canvas.heat").wait_for()
    keep(page, path)


def queue(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/console/queue", height=980)
    page.locator(".past-flaw").first.wait_for()
    page.keyboard.press("r")
    page.keyboard.press("1")
    keep(page, path)


def history(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/console/history", color_scheme="dark")
    page.locator("#rows tr").first.wait_for()
    page.locator("#live[data-state=on]").wait_for()
    keep(page, path)


def reports(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/console/reports")
    page.frame_locator("#report").get_by_text("Flaws by type").wait_for()
    keep(page, path)


def phone(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    page = page_of(service, browser, "/", width=375, height=780, has_touch=True, is_mobile=True, device_scale_factor=1)
    page.locator("#files").set_input_files(parts / "test" / "red_spot" / "001.png")
    page.locator("canvas.heat").wait_for(timeout=300_000)
    page.locator(".inspection").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#shown').scrollIntoView()")
    keep(page, path)


def models(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    """Version 2 rejects less; master parts are checked, and the two versions compared."""
    client = service.client
    order = {"version": 1, "form": client.get("/models/polka-dot/thresholds").json()["form"], "reject": 1.6}
    client.post("/models/polka-dot/thresholds", json=order).raise_for_status()
    for name, kind, expected in (
        ("good, roll 2231", "good", "ok"),
        ("thread", "black_thread", "not_ok"),
        ("spot", "red_spot", "not_ok"),
    ):
        files = {"image": (parts / "test" / kind / "002.png").open("rb")}
        client.post("/models/polka-dot/masters", data={"name": name, "expected": expected}, files=files)
    client.post("/models/polka-dot/checks", timeout=300).raise_for_status()
    client.post("/models/polka-dot/shadow", json={"version": 2}).raise_for_status()

    def standing() -> dict[str, Any]:
        told: dict[str, Any] = client.get("/models/polka-dot/shadow").json()
        return told

    wait_until(lambda: standing()["state"] == "running", 300)
    for number, picture in enumerate(sorted((parts / "test").glob("*/00[01].png")), 1):
        send(service, picture, 60 + number)
        wait_until(lambda number=number: standing()["compared"] + standing()["dropped"] >= number, 300)
    page = page_of(service, browser, "/console/models", height=1240)
    page.locator("#threshold-facts").wait_for()
    page.locator("#compared").wait_for()
    page.locator("#live[data-state=on]").wait_for()
    keep(page, path)
    client.delete("/models/polka-dot/shadow").raise_for_status()


def train(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    """A training of other parts, as it stands after its first evaluation."""
    metal = parts.parent / "metal"
    write_dataset("brushed-metal", metal, good=30, seed=3)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for picture in sorted((metal / "train" / "good").glob("*.png")):
            packed.write(picture, picture.name)
    page = page_of(service, browser, "/console/train", height=780)
    page.get_by_label("Name of the model").fill("brushed-metal")
    page.get_by_label("Zip file").set_input_files(
        {"name": "good.zip", "mimeType": "application/zip", "buffer": archive.getvalue()}
    )
    page.get_by_text("Options").click()
    page.locator("[name=steps]").fill("60")
    page.locator("[name=working_size]").fill("224")
    page.get_by_text("Options").click()
    page.get_by_role("button", name="Start", exact=True).click()
    page.locator(".samples img").first.wait_for(timeout=1_800_000)
    keep(page, path)
    for each in service.client.get("/trainings").json()["trainings"]:
        service.client.post(f"/trainings/{each['id']}/cancel")


def login(service: Service, browser: Browser, parts: Path, path: Path) -> None:
    """Of a service that asks for keys."""
    keys = parts.parent / "keys.json"
    create_key(keys, ("review",), "shift 2")
    with running(parts.parent / "models", model="polka-dot", keys_file=keys, store="off") as guarded:
        page = page_of(guarded, browser, "/console/queue", height=440)
        page.get_by_label("API key").wait_for()
        keep(page, path)


PICTURES: dict[str, Callable[[Service, Browser, Path, Path], None]] = {
    "inspect": inspect,
    "queue": queue,
    "history": history,
    "reports": reports,
    "models": models,
    "train": train,
    "phone": phone,
    "login": login,
}

if __name__ == "__main__":
    main()

"""The page Inspect in a real browser."""

from __future__ import annotations

import base64
import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.console.conftest import Opener
from tests.console.parts import HOSTILE, counted, part
from tests.contract.serving import Service, running
from tests.networks import write_bundle

HAND_OVER = """([name, data, event]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const init = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(event === "drop"
    ? new DragEvent("drop", { ...init, dataTransfer: transfer })
    : new ClipboardEvent("paste", { ...init, clipboardData: transfer }));
}"""

PASTE_INTO = """(target, [data, words]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
  if (words) transfer.setData("text/plain", words);
  target.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: transfer }));
}"""


def picked(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": data}


@pytest.fixture
def page(site: Service, open_page: Opener) -> Page:
    return open_page(site, "/", permissions=["clipboard-read", "clipboard-write", "camera"], accept_downloads=True)


def choose(page: Page, *pictures: dict[str, Any]) -> Page:
    page.locator("#files").set_input_files(list(pictures))
    view = page.locator(".inspection")
    view.wait_for()
    return view


def test_without_a_picture_the_page_says_what_to_do(page: Page) -> None:
    assert "No picture yet" in page.locator("#empty").inner_text()


def test_a_flawed_part_is_shown_with_heat_regions_score_words_and_timings(page: Page) -> None:
    view = choose(page, picked("cover.png", part()))
    assert view.locator(".badge").inner_text().split() == ["✕", "Not", "OK"]
    assert view.locator(".outline").count() == 1
    scale = view.get_by_role("img", name="Score").first
    assert "the part is not OK" in scale.get_attribute("aria-label")
    assert view.locator(".source").inner_text() in ("rules", "memory")
    assert "budget" in view.locator(".timings").inner_text()
    heat = view.locator("canvas.heat")
    heat.wait_for()
    hot = heat.evaluate(
        """(canvas) => {
          const { width, height } = canvas, pen = canvas.getContext("2d");
          const alpha = (x, y) => pen.getImageData(x * width, y * height, 1, 1).data[3];
          return [alpha(80 / 400, 80 / 300), alpha(0.8, 0.8)];
        }"""
    )
    assert hot[0] > 100 > hot[1]  # hot on the flaw, clear elsewhere
    slider = view.get_by_role("slider", name="Heat")
    slider.fill("20")
    assert float(heat.evaluate("(canvas) => canvas.style.opacity")) == pytest.approx(0.2)
    view.get_by_role("button", name="Outlines").click()
    assert view.locator(".outlines").evaluate("(node) => getComputedStyle(node).visibility") == "hidden"


def test_several_pictures_each_get_their_verdict(page: Page) -> None:
    choose(page, picked("bad.png", part()), picked("good.png", part(None)), picked("other.png", part(90)))
    strip = page.locator("#strip li")
    expect(page.locator("#strip .badge")).to_have_count(3)
    assert [each.split("\n")[-1] for each in strip.all_inner_texts()] == ["bad.png", "good.png", "other.png"]
    strip.nth(1).get_by_role("button").click()
    assert page.locator("#shown .badge").first.inner_text().split() == ["✓", "OK"]
    assert "This is normal" in page.locator("#shown").inner_text()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_taken_by_drop_and_paste(page: Page, event: str) -> None:
    page.evaluate(HAND_OVER, ["handed.png", base64.b64encode(part()).decode(), event])
    page.locator(".inspection").wait_for()
    assert page.locator("#shown h2").inner_text() == "handed.png"


@pytest.mark.parametrize(
    ("into", "words", "taken"),
    [
        ("[name=serial]", "A-17", 0),  # as Office copies a cell: a text, and a picture of it
        ("[name=serial]", "", 1),
        ("#files", "A-17", 1),
        ("body", "A-17", 1),
    ],
)
def test_a_text_pasted_into_a_field_is_no_picture(page: Page, into: str, words: str, taken: int) -> None:
    page.locator(into).evaluate(PASTE_INTO, [base64.b64encode(part()).decode(), words])
    assert page.locator("#strip li").count() == taken


def test_the_camera_takes_a_picture(page: Page) -> None:
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#video")).not_to_have_js_property("videoWidth", 0)
    page.get_by_role("button", name="Take the picture").click()
    page.locator(".inspection").wait_for()
    assert page.locator("#shown h2").inner_text().startswith("camera-")


def test_what_is_no_picture_is_said_in_the_services_words(page: Page) -> None:
    page.locator("#files").set_input_files([picked("broken.png", b"no picture at all")])
    alert = page.get_by_role("alert")
    assert "Unreadable image" in alert.inner_text()
    assert alert.get_by_role("button", name="Try again").is_visible()
    page.locator("#files").set_input_files([{"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"}])
    assert "Not every file is a picture" in page.locator("#trouble").inner_text()


def test_an_answer_that_breaks_off_is_said_and_asked_for_again(page: Page) -> None:
    broken = iter([True])

    def cut(route: Route) -> None:
        if next(broken, False):
            route.fulfill(status=200, content_type="application/json", body='{"results": [{"verd')
        else:
            route.continue_()

    page.route(re.compile("/(classify|detect)"), cut)
    page.locator("#files").set_input_files([picked("cut.png", part())])
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("No answer from the service")
    alert.get_by_role("button", name="Try again").click()
    page.locator(".inspection").wait_for()


def test_a_refusal_without_words_is_said_all_the_same(page: Page) -> None:
    title = page.evaluate(
        """async () => {
          const { Problem } = await import("/console/static/api.js");
          return (await Problem.of(new Response("<html>", { status: 502, headers: { "content-type": "text/html" } }))).title;
        }"""
    )  # as HTTP/2 has it: a status, and no words for it
    assert title == "That did not work"


def test_a_hostile_file_name_is_a_text(page: Page) -> None:
    choose(page, picked(f"{HOSTILE}.png", part()))
    assert page.locator("#shown h2").inner_text() == f"{HOSTILE}.png"
    assert page.locator("img[onerror]").count() == 0


def test_the_overlay_is_downloaded_and_the_copied_curl_works(page: Page, site: Service, tmp_path: Path) -> None:
    name = 'it\'s a $(part) "x".png'
    (tmp_path / name).write_bytes(part())
    page.get_by_text("About the parts").click()
    page.get_by_label("Lot").fill("@L '7'")
    page.get_by_label("Keep").select_option("record")
    with page.expect_request(re.compile(r"/classify\?")) as sent:
        view = choose(page, picked(name, part()))
    page.get_by_label("Lot").fill("of the next part")
    before = counted(site)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download overlay").click()
    assert counted(site) == before
    overlay = Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB")
    red, green, _ = np.asarray(overlay)[80, 80]
    assert (overlay.size, int(red) > 2 * int(green)) == ((400, 300), True)
    page.get_by_role("button", name="Copy curl").click()
    page.get_by_text("Copied").wait_for()
    line = page.evaluate("navigator.clipboard.readText()")
    assert line.startswith("curl ")
    assert shlex.split(line)[-1] == sent.value.url
    assert {"include=regions%2Cmap", "store=record"} <= {*sent.value.url.partition("?")[2].split("&")}
    asked = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert '"verdict":"not_ok"' in asked.stdout
    assert '"lot":"@L \'7\'"' in asked.stdout, shlex.split(line)
    assert view.is_visible()


def test_waiting_and_repeated_pictures_are_asked_with_what_they_were_put_in_with(page: Page, site: Service) -> None:
    held: list[Route] = []

    def hold_two(route: Route) -> None:
        if len(held) < 2:
            held.append(route)
        else:
            route.continue_()

    page.route("**/classify?*", hold_two)
    page.get_by_text("About the parts").click()
    page.get_by_label("Lot").fill("put in")
    page.get_by_label("Keep").select_option("record")
    page.locator("#files").set_input_files([picked(f"{each}.png", part(each)) for each in (62, 63, 64)])
    expect(page.locator("#strip")).to_contain_text("waiting")  # two are asked at once
    page.get_by_label("Lot").fill("the next")
    page.get_by_label("Keep").select_option("none")
    while len(held) < 2:
        page.wait_for_timeout(10)
    refused, other = held
    refused.fulfill(status=503, json={"title": "Not ready", "detail": "loading"})
    other.continue_()
    page.get_by_role("alert").get_by_role("button", name="Try again").click()
    expect(page.locator("#strip .badge")).to_have_count(3)
    found = site.client.get("/inspections", params={"lot": "put in"}).json()["inspections"]
    assert len(found) == 3
    assert site.client.get("/inspections", params={"lot": "the next"}).json()["inspections"] == []


def test_a_service_without_records_judges_pictures_and_is_asked_for_no_events(
    forgetful_site: Service, open_page: Opener
) -> None:
    page = open_page(forgetful_site, "/")
    expect(page.get_by_label("Keep")).to_have_count(0)
    choose(page, picked("cover.png", part()))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/console/models")
    page.locator("#versions table").wait_for()
    assert f"{forgetful_site.url}/models" in asked
    assert f"{forgetful_site.url}/events" not in asked


def test_a_service_that_keeps_only_what_is_asked_for_offers_it_and_is_live(open_page: Opener, models: Path) -> None:
    with running(models, store="none") as service:
        page = open_page(service, "/")
        keep = page.get_by_label("Keep")
        expect(keep).to_have_value("none")
        choose(page, picked("cover.png", part()))
        assert service.client.get("/inspections").json()["inspections"] == []
        keep.select_option("record")
        page.reload()
        expect(keep).to_have_value("record")
        choose(page, picked("cover.png", part()))
        assert len(service.client.get("/inspections").json()["inspections"]) == 1
        page.goto("/console/history")
        page.locator("#live[data-state=on]").wait_for()
        page.close()  # its event stream, before the service stops


def test_a_model_of_which_no_version_is_in_service_is_not_asked(open_page: Opener, tmp_path: Path) -> None:
    for name in ("cover", "trained"):
        write_bundle(tmp_path / "models", name, 1)
    (tmp_path / "models" / "trained" / "active").write_text("0\n")  # as a training over HTTP leaves it
    with running(tmp_path / "models", model="cover") as service:
        page = open_page(service, "/")
        expect(page.get_by_label("Model").locator("option")).to_have_text(["cover 1", "trained: no version in service"])
        expect(page.get_by_role("option", name="trained")).to_be_disabled()


def test_a_picture_that_browsers_cannot_show_is_shown_as_the_overlay(page: Page, site: Service) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(part())).save(buffer, "TIFF")
    before = counted(site)
    view = choose(page, {"name": "part.tif", "mimeType": "image/tiff", "buffer": buffer.getvalue()})
    expect(page.locator(".inspection .pixels")).to_have_js_property("naturalWidth", 400)
    assert counted(site) == before + 1
    assert view.locator(".badge").inner_text().split() == ["✕", "Not", "OK"]

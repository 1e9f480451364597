"""The page Train in a real browser: an order, its progress, an error, cancel; a real child process behind it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from service.trainings.process import end, holder
from service.trainings.progress import ProgressFile
from tests.console.conftest import Opener
from tests.console.parts import part
from tests.contract.serving import Service, running
from tests.networks import grey_picture, png, write_bundle


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Service]:
    """A service with a folder of three pictures that may be named."""
    write_bundle(tmp_path / "models", "probe", 1)
    (tmp_path / "photos" / "few").mkdir(parents=True)
    for k in range(3):
        (tmp_path / "photos" / "few" / f"{k}.png").write_bytes(part(None))
    settings: dict[str, Any] = {
        "trainings_dir": tmp_path / "trainings",
        "training_data_dir": tmp_path / "photos",
        "background_nice": 0,
    }
    with running(tmp_path / "models", **settings) as service:
        yield service
    if (held := holder(tmp_path / "trainings" / "lock")) is not None:
        end(tmp_path / "trainings" / "lock", held)


def zipped(count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for k in range(count):
            archive.writestr(f"good/{k}.png", part(None))
    return buffer.getvalue()


def test_a_zip_is_sent_watched_left_found_again_and_cancelled(workshop: Service, open_page: Opener) -> None:
    page = open_page(workshop, "/console/train")
    page.get_by_text("No training yet").wait_for()
    page.get_by_label("Name of the model").fill("cover")
    page.get_by_label("Zip file").set_input_files(
        {"name": "good.zip", "mimeType": "application/zip", "buffer": zipped(12)}
    )
    page.get_by_text("Options").click()
    page.locator("[name=steps]").fill("100000")
    page.get_by_role("button", name="Start", exact=True).click()
    shown = page.get_by_role("region", name="cover")
    expect(shown).to_contain_text("running")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    page.goto("/console/models")
    page.goto("/console/train")
    expect(shown).to_contain_text("running")
    shown.get_by_role("button", name="Cancel").click()
    expect(shown).to_contain_text("cancelled")
    assert workshop.state.trainings.running() is None
    expect(shown.get_by_role("button", name="Go on")).to_be_visible()
    shown.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave it as it is").click()
    expect(shown).to_contain_text("cancelled")
    shown.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    page.get_by_text("No training yet").wait_for()


def test_what_a_training_shows_while_it_learns(workshop: Service, open_page: Opener) -> None:
    """What the child writes, written here, since it takes minutes to get there."""
    page = open_page(workshop, "/console/train")
    started = workshop.client.post("/trainings", json={"name": "cover", "folder": "few"}).json()
    workshop.client.post(f"/trainings/{started['id']}/cancel")
    file = ProgressFile(workshop.state.trainings.place.folder / started["id"] / "progress.json")
    for step in range(1, 141):
        file.step(step, 560, 3 - step / 100)
    file.evaluated(140, 0.97, [(png(grey_picture()), False, 0.1), (png(grey_picture()), True, 2.5)])
    page.reload()
    shown = page.get_by_role("region", name="cover")
    expect(shown.get_by_role("img", name="Loss from")).to_be_visible()
    expect(shown.get_by_role("img", name="with a painted flaw")).to_be_visible()
    expect(shown).to_contain_text("Held-back good parts at step 140")
    (workshop.state.trainings.place.folder / started["id"] / "cancelled").unlink()
    file.failed("the disk is full")
    page.reload()
    expect(shown.get_by_role("alert")).to_contain_text("the disk is full")
    file.done(Path("models/cover/1"))
    page.reload()
    expect(shown).to_contain_text("Version 1 of cover is written")
    report = shown.get_by_role("link", name="Read its report first")
    assert report.get_attribute("href") == "/models/cover/versions/1/report"
    assert "model=cover" in (shown.get_by_role("link", name="Look at the version").get_attribute("href") or "")


def test_every_option_of_the_form_is_ordered(workshop: Service, open_page: Opener) -> None:
    page = open_page(workshop, "/console/train")
    page.get_by_label("Name of the model").fill("cover")
    page.get_by_label("Name a folder of the server").check()
    page.locator("[name=folder]").fill("few")
    page.get_by_text("Options").click()
    page.locator("[name=lighting]").select_option("auto")
    page.get_by_label("How parts lie").select_option("fixed")
    page.get_by_label("Smallest flaw that counts, mm").fill("0.4")
    page.get_by_text("Options").click()
    page.get_by_role("button", name="Start", exact=True).click()
    scale = page.get_by_label("Scale, mm a pixel")
    expect(scale).to_be_visible()  # it is needed now: the options are open again
    assert workshop.client.get("/trainings").json()["trainings"] == []
    scale.fill("0.05")
    with page.expect_response("**/trainings") as answered:
        page.get_by_role("button", name="Start", exact=True).click()
    order = answered.value.json()["order"]
    assert (order["lighting"], order["layout"]) == ("auto", "fixed")
    assert (order["min_flaw_mm"], order["mm_per_pixel"]) == (0.4, 0.05)
    assert "min_flaw_px" not in order


def test_a_refusal_says_why(workshop: Service, open_page: Opener) -> None:
    page = open_page(workshop, "/console/train")
    page.get_by_label("Name of the model").fill("cover")
    page.get_by_label("Zip file").set_input_files({"name": "a.zip", "mimeType": "application/zip", "buffer": b"PK"})
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("not a zip")
    page.get_by_label("Name a folder of the server").check()
    page.locator("[name=folder]").fill("nowhere")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("not a folder below")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()


def test_hostile_names_do_not_get_in(workshop: Service, open_page: Opener) -> None:
    page = open_page(workshop, "/console/train")
    name = page.get_by_label("Name of the model")
    name.fill("<b>x</b>")
    assert not name.evaluate("field => field.checkValidity()")
    name.fill("cover-2.b")
    assert name.evaluate("field => field.checkValidity()")


def test_why_no_folder_may_be_named_is_said_beside_the_choice(empty_site: Service, open_page: Opener) -> None:
    page = open_page(empty_site, "/console/train")
    expect(page.get_by_label("Name a folder of the server")).to_be_disabled()
    expect(page.get_by_text("FLAWSCRIBE_TRAINING_DATA_DIR is not set")).to_be_visible()

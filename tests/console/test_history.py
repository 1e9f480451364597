"""The page History in a real browser."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from playwright.sync_api import expect

from service.records.entities import Caption
from service.types import Citation, Decision
from tests.console.conftest import Opener
from tests.console.parts import HOSTILE, counted, inspect, part
from tests.contract.serving import Service, running
from tests.unit.records.making import record, words


def test_filters_find_and_the_address_keeps_them(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/history")
    page.get_by_label("Serial").fill("A-2")
    page.get_by_label("Verdict").select_option("not_ok")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#rows tr")).to_have_count(1)
    page.reload()
    expect(page.locator("#rows tr")).to_have_count(1)
    assert page.get_by_label("Serial").input_value() == "A-2"
    assert "cover · L1 · A-2" in page.locator("#rows").inner_text()
    page.get_by_label("Verdict").select_option("undecidable")
    page.get_by_role("button", name="Show").click()
    page.locator("#empty").wait_for()
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#rows tr").nth(1)).to_be_visible()
    assert "?" not in page.url


def test_pages_go_on_by_cursor(site: Service, open_page: Opener) -> None:
    records = site.state.records
    assert records is not None
    records.save([record(number, lot="many", product="cover") for number in range(52)]).result(30)
    page = open_page(site, "/console/history?lot=many")
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Back to the newest").click()
    expect(rows).to_have_count(50)


def test_an_inspection_opens_by_its_address_and_is_reviewed(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(100), lot="detail")
    page = open_page(site, f"/console/history?lot=detail#{seen['id']}")
    expect(page.get_by_role("dialog").get_by_role("heading", name="Similar past flaws")).to_be_visible()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Not OK").first.wait_for()
    before = counted(site)
    dialog.get_by_role("slider", name="Heat").fill("70")
    dialog.locator("canvas.heat").wait_for()
    assert counted(site) == before
    dialog.get_by_role("button", name="Right").click()
    dialog.get_by_label("What is the flaw?").fill("scratch")
    dialog.get_by_label("Note").fill("seen twice")
    dialog.get_by_role("button", name="Save").click()
    dialog.get_by_text("Verdict right", exact=True).wait_for()
    expect(dialog).to_contain_text("seen twice")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#rows")).to_contain_text("scratch")
    expect(page).not_to_have_url(re.compile("#"))


def test_an_open_inspection_hears_the_keys_of_a_review(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(101), lot="keys heard")
    page = open_page(site, f"/console/history?lot=keys+heard#{seen['id']}")
    page.get_by_role("form", name="Review").wait_for()
    page.keyboard.press("r")
    page.keyboard.press("n")
    page.keyboard.type("by hand")
    page.keyboard.press("Escape")  # leaves the field, not the inspection
    page.keyboard.press("l")
    page.keyboard.type("scratch")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Verdict right · scratch")
    expect(page.get_by_role("dialog")).to_contain_text("by hand")


def test_causes_lead_to_the_past_flaws_they_cite_and_a_suggested_severity_is_told(
    models: Path, open_page: Opener
) -> None:
    with running(models) as service:
        seen = inspect(service, part())["id"]
        cited = (Citation("loom end", "c" * 32, seen), Citation(HOSTILE, HOSTILE, HOSTILE))
        told = words("ink", probable_causes=("loom end", HOSTILE, "dust"), cited=cited)
        records = service.state.records
        assert records is not None
        records.save([record(1, Decision.NOT_OK, caption=Caption(told, (told,)))]).result(30)
        page = open_page(service, f"/console/history#{1:032x}")
        block = page.get_by_role("dialog").locator(".words")
        expect(block).to_contain_text(f"loom end (past flaws: {seen[:8]}); {HOSTILE} (past flaws: {HOSTILE[:8]}); dust")
        expect(block).to_contain_text("LLM suggests minor")
        assert page.locator("img[onerror]").count() == 0
        with page.context.expect_page() as opened:
            block.get_by_role("link", name=seen[:8]).click()
        expect(opened.value.get_by_role("dialog").get_by_text(seen)).to_be_visible()
        page.context.close()  # its streams of events would hold the service up


def test_the_csv_has_the_rows_shown(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/history?serial=A-1", accept_downloads=True)
    expect(page.locator("#rows tr")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    (row,) = csv.DictReader(io.StringIO(Path(download.value.path()).read_text()))
    assert (row["serial"], row["review_label"]) == ("A-1", "ink")


def test_hostile_texts_are_texts(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/history")
    page.get_by_label("Station").fill(HOSTILE)
    page.keyboard.press("Enter")
    expect(page.locator("#rows tr")).to_have_count(1)
    assert HOSTILE in page.locator("#rows").inner_text()
    page.locator("#rows a").click()
    page.get_by_role("dialog").get_by_text("Not OK").first.wait_for()
    assert page.locator("img[onerror]").count() == 0


def test_what_is_inspected_meanwhile_appears(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/history?lot=meanwhile")
    page.locator("#live[data-state=on]").wait_for()
    page.locator("#empty").wait_for()
    inspect(site, part(105), lot="meanwhile")
    expect(page.locator("#rows tr")).to_have_count(1)


def test_filters_that_are_being_written_are_not_taken_for_given(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/history?lot=written")
    page.locator("#live[data-state=on]").wait_for()
    page.locator("#empty").wait_for()
    page.get_by_label("Serial").fill("half of")
    inspect(site, part(106), lot="written", serial="W-1")
    expect(page.locator("#rows tr")).to_have_count(1)
    assert "half" not in page.url


def test_an_unknown_inspection_and_an_empty_history(empty_site: Service, open_page: Opener) -> None:
    page = open_page(empty_site, "/console/history?lot=none#" + "0" * 32)
    page.locator("#empty").wait_for(state="attached")
    assert "there is no inspection" in page.get_by_role("dialog").get_by_role("alert").inner_text()


def test_a_service_that_records_nothing_says_so(forgetful_site: Service, open_page: Opener) -> None:
    page = open_page(forgetful_site, "/console/history")
    assert "FLAWSCRIBE_STORE is `off`" in page.get_by_role("alert").inner_text()

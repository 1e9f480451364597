"""The page Reports in a real browser."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

from playwright.sync_api import Route, expect

from tests.console.conftest import Opener
from tests.console.parts import HOSTILE, inspect, part
from tests.contract.serving import Service, running
from tests.llm_server import LlmServer, completion


def test_a_report_is_read_in_its_frame_and_downloaded(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports", accept_downloads=True)
    page.get_by_label("Product").fill("cover")
    page.get_by_role("button", name="Show the report").click()
    frame = page.frame_locator("#report")
    frame.get_by_text("Flaws by type").wait_for()
    page.frame_locator("#report").get_by_role("heading", name="cover").wait_for()
    for form, beginning in (("HTML", "<!doctype html"), ("CSV", "id,created_at")):
        with page.expect_download() as download:
            page.get_by_role("link", name=form, exact=True).click()
        assert Path(download.value.path()).read_text().lower().startswith(beginning)
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON", exact=True).click()
    assert json.loads(Path(download.value.path()).read_text())


def test_the_frame_can_do_nothing_and_shows_hostile_texts_as_texts(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports")
    page.get_by_label("Product").fill(HOSTILE)
    page.get_by_role("button", name="Show the report").click()
    page.frame_locator("#report").get_by_role("heading", name=HOSTILE).wait_for()
    assert page.locator("#report").get_attribute("sandbox") == ""


def test_the_llm_sums_up_when_asked_and_once(models: Path, open_page: Opener) -> None:
    with LlmServer() as llm, running(models, llm_base_url=llm.base_url, llm_model="scripted") as service:
        inspect(service, part(None), path="/detect")
        llm.script(completion(f"All parts were good. {HOSTILE}"))
        page = open_page(service, "/console/reports")
        page.frame_locator("#report").get_by_text("Flaws by type").wait_for()
        assert llm.requests == []
        page.get_by_label("With the LLM's summary").check()
        page.get_by_role("button", name="Show the report").click()
        page.frame_locator("#report").get_by_text(f"All parts were good. {HOSTILE}").wait_for()
        expect(page.locator("#waiting")).to_be_hidden()
        assert len(llm.requests) == 1


def test_without_an_llm_no_summary_is_offered(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports")
    page.locator("#reading").wait_for()
    expect(page.locator("#scope")).not_to_contain_text("LLM")
    expect(page.locator("[name=summary]")).to_have_count(0)


def test_a_span_that_ends_before_it_begins_is_refused(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports")
    page.get_by_label("Span").select_option("own")
    page.get_by_label("From", exact=True).fill("2026-03-02T06:00")
    page.get_by_label("To", exact=True).fill("2026-03-01T06:00")
    page.get_by_role("button", name="Show the report").click()
    assert "must begin before it ends" in page.get_by_role("alert").inner_text()
    assert page.locator("#reading").is_hidden()


def test_reports_read_one_after_the_other_are_no_steps_of_back(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports")
    for product in ("nothing of it", "cover"):
        page.get_by_label("Product").fill(product)
        page.get_by_role("button", name="Show the report").click()
        page.frame_locator("#report").get_by_role("heading", name=product).wait_for()
    page.go_back()
    assert page.url == "about:blank"


def test_a_pdf_is_made_or_it_is_said_what_to_install(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports", accept_downloads=True)
    page.get_by_label("Product").fill("nothing of it")  # a short report is soon a PDF
    page.get_by_role("button", name="Show the report").click()
    expect(page.locator("#alone")).to_have_attribute("href", re.compile("nothing"))
    link = page.get_by_role("link", name="PDF", exact=True)
    if find_spec("weasyprint") is None:
        link.click()
        expect(page.locator("#trouble")).to_contain_text("pip install")
    else:
        with page.expect_download() as download:
            link.click()
        assert Path(download.value.path()).read_bytes().startswith(b"%PDF")


def test_a_late_answer_does_not_take_the_place_of_a_newer_report(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports")
    page.locator("#reading").wait_for()
    held: list[Route] = []
    page.route("**/reports?*product=former*json", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks what it calls
    for product in ("former", "cover"):
        page.get_by_label("Product").fill(product)
        page.get_by_role("button", name="Show the report").click()
    expect(page.locator("#alone")).to_have_attribute("href", re.compile("product=cover"))
    (former,) = held
    with page.expect_response("**/reports?*product=former*json"):
        former.continue_()
    page.frame_locator("#report").get_by_role("heading", name="cover").wait_for()
    expect(page.locator("#alone")).to_have_attribute("href", re.compile("product=cover"))


def test_an_empty_span_has_an_empty_report(empty_site: Service, open_page: Opener) -> None:
    page = open_page(empty_site, "/console/reports")
    page.get_by_label("Product").fill("nothing of it")
    page.get_by_role("button", name="Show the report").click()
    page.frame_locator("#report").get_by_text("Nothing was inspected in this span.").wait_for()


def test_a_service_that_records_nothing_says_so(forgetful_site: Service, open_page: Opener) -> None:
    page = open_page(forgetful_site, "/console/reports")
    assert "FLAWSCRIBE_STORE is `off`" in page.get_by_role("alert").inner_text()

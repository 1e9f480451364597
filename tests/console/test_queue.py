"""The page Queue in a real browser: reviews by keyboard, live."""

from __future__ import annotations

import re
from typing import Any

import httpx
from playwright.sync_api import Page, Route, expect

from tests.console.conftest import Opener
from tests.console.parts import HOSTILE, counted, inspect, part, review
from tests.contract.serving import Service


def lot_of(page: Page, lot: str) -> None:
    page.get_by_label("Lot").fill(lot)
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")


def reviews_of(service: Service, inspection_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{service.url}/inspections/{inspection_id}").json()["reviews"]
    return found


def test_flaws_are_reviewed_by_keyboard_alone(site: Service, open_page: Opener) -> None:
    older, newer = (inspect(site, part(at), product="cover", lot="keys") for at in (70, 71))
    page = open_page(site, "/console/queue")
    lot_of(page, "keys")
    expect(page.locator("#list li")).to_have_count(2)
    page.locator(".past-flaw").first.wait_for()
    page.get_by_role("button", name="1 ink").wait_for()
    page.keyboard.press("r")
    page.keyboard.press("1")
    page.keyboard.press("c")
    page.keyboard.type("printer")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.keyboard.type("cleaned")
    page.keyboard.press("Enter")
    page.get_by_text("Review saved. The memory knows this flaw now.").wait_for()
    expect(page.locator("#list li")).to_have_count(1)
    (said,) = reviews_of(site, newer["id"])
    assert (said["verdict"], said["label"], said["cause"], said["action"]) == ("right", "ink", "printer", "cleaned")
    page.keyboard.press("o")
    page.keyboard.press("Enter")
    page.locator("#empty").wait_for()
    assert reviews_of(site, older["id"])[0]["verdict"] == "overkill"
    assert "2 reviewed by you now" in page.locator("#count").inner_text()


def test_a_verdict_comes_first_and_must_fit(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(75), lot="first")
    page = open_page(site, "/console/queue")
    lot_of(page, "first")
    expect(page.locator("#list li")).to_have_count(1)
    page.keyboard.press("Enter")
    assert "First say whether the verdict was right" in page.get_by_role("alert").inner_text()
    page.keyboard.press("e")
    page.get_by_text("Escape cannot be said of the verdict Not OK.").wait_for()
    assert reviews_of(site, seen["id"]) == []


def test_each_flaw_of_a_part_gets_its_own_words_by_keyboard(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(72, second=True), product="several", lot="several")
    assert len(seen["regions"]) == 2
    page = open_page(site, "/console/queue")
    lot_of(page, "several")
    form = page.get_by_role("form", name="Review")
    form.wait_for()
    assert page.locator(".outlines .tag").all_inner_texts() == ["1", "2"]
    for key, words in (("l", "ink"), ("c", "printer"), ("n", "seen on line 2")):
        page.keyboard.press(key)
        page.keyboard.type(words)
        page.keyboard.press("Escape")
    with page.expect_request("**/similar?region=1"):
        page.keyboard.press("f")
    expect(form.get_by_label("Which flaw?")).to_have_value(re.compile("^2 · "))
    expect(page.locator(".outline.marked")).to_have_attribute("data-region", "1")
    assert form.get_by_label("What is the flaw?").input_value() == form.get_by_label("Note").input_value() == ""
    page.keyboard.press("l")
    page.keyboard.type("dent")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    assert form.get_by_label("What is the flaw?").input_value() == "ink"  # what was written waits
    assert "2 ✓ dent" in form.get_by_label("Which flaw?").inner_text()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    page.locator("#empty").wait_for()
    told = [(each["region"], each["label"], each["cause"], each["comment"]) for each in reviews_of(site, seen["id"])]
    assert told == [(1, "dent", "", ""), (0, "ink", "printer", "seen on line 2")]
    assert all(each["case_id"] for each in reviews_of(site, seen["id"]))


def test_of_several_reviews_those_that_are_written_are_not_sent_again(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(73, second=True), lot="again")
    page = open_page(site, "/console/queue")
    lot_of(page, "again")
    form = page.get_by_role("form", name="Review")
    for number in (0, 1):
        form.get_by_label("Which flaw?").select_option(index=number)
        form.get_by_label("What is the flaw?").fill(f"flaw {number}")
    refusals = iter([False, True])  # the second one

    def refused(route: Route) -> None:
        if next(refusals, False):
            route.fulfill(status=503, json={"title": "Busy"})
        else:
            route.continue_()

    page.route("**/review", refused)
    form.get_by_role("button", name="Right").click()
    form.get_by_role("button", name="Save").click()
    form.get_by_role("alert").get_by_role("button", name="Try again").click()
    page.locator("#empty").wait_for()
    assert [(each["region"], each["label"]) for each in reviews_of(site, seen["id"])] == [(1, "flaw 1"), (0, "flaw 0")]


def test_overkill_is_of_the_whole_part_and_a_note_has_lines(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(74, second=True), lot="lamps")
    page = open_page(site, "/console/queue")
    lot_of(page, "lamps")
    page.get_by_label("Which flaw?").select_option(index=1)
    page.get_by_label("Note").fill("lamp 3")
    page.get_by_label("Note").press("Enter")
    page.keyboard.type("was off")
    page.get_by_role("button", name="Overkill").click()
    page.get_by_label("Note").press("Control+Enter")
    page.locator("#empty").wait_for()
    (said,) = reviews_of(site, seen["id"])
    assert (said["verdict"], said["region"], said["comment"]) == ("overkill", None, "lamp 3\nwas off")


def test_an_escape_is_found_among_the_passed_parts(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(None), lot="passed")
    page = open_page(site, "/console/queue")
    page.get_by_label("Show").select_option("passed")
    lot_of(page, "passed")
    expect(page.locator("#list li")).to_have_count(1)
    page.keyboard.press("e")
    page.keyboard.press("Enter")
    page.locator("#empty").wait_for()
    assert reviews_of(site, seen["id"])[0]["verdict"] == "escape"


def test_steps_by_keyboard_and_the_list_of_keys(site: Service, open_page: Opener) -> None:
    for at in (80, 81, 82):
        inspect(site, part(at), lot="steps")
    page = open_page(site, "/console/queue")
    lot_of(page, "steps")
    expect(page.locator("#list li")).to_have_count(3)
    place = "[...document.querySelectorAll('#list .entry')].findIndex((each) => each.ariaCurrent === 'true')"
    seen = [page.evaluate(place)]
    for key in ("j", "ArrowDown", "j", "k"):
        page.keyboard.press(key)
        seen.append(page.evaluate(place))
    assert seen == [0, 1, 2, 2, 1]
    page.keyboard.press("?")
    assert "overkill: a good part was flagged" in page.get_by_role("dialog").inner_text()


def test_what_is_inspected_and_reviewed_elsewhere_comes_and_goes_by_itself(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/queue")
    page.locator("#live[data-state=on]").wait_for()
    lot_of(page, "live")
    page.locator("#empty").wait_for()
    first = inspect(site, part(85), lot="live")
    expect(page.locator("#list li")).to_have_count(1)
    page.locator("#shown .review-form").wait_for()
    page.keyboard.press("l")
    page.keyboard.type("half a wo")
    second = inspect(site, part(86), lot="live")
    inspect(site, part(None), lot="live")
    expect(page.locator("#list li")).to_have_count(2)
    assert page.get_by_label("What is the flaw?").input_value() == "half a wo"  # what is written stays
    review(site, second["id"])
    expect(page.locator("#list li")).to_have_count(1)
    review(site, first["id"])
    page.get_by_text("Kim has reviewed this part meanwhile.").wait_for()


def test_the_focus_stays_where_it_is_when_the_list_changes(site: Service, open_page: Opener) -> None:
    inspect(site, part(87), lot="focus")
    page = open_page(site, "/console/queue")
    page.locator("#live[data-state=on]").wait_for()
    lot_of(page, "focus")
    expect(page.locator("#list li")).to_have_count(1)
    page.locator("#list .entry").focus()
    inspect(site, part(88), lot="focus")
    expect(page.locator("#list li")).to_have_count(2)
    expect(page.locator("#list .entry").nth(1)).to_be_focused()
    page.keyboard.press("Enter")  # chooses it: it is drawn anew, and keeps the focus
    expect(page.locator("#list .entry").nth(1)).to_be_focused()


def test_a_late_answer_to_former_filters_is_not_shown(site: Service, open_page: Opener) -> None:
    inspect(site, part(89), lot="former")
    inspect(site, part(92), lot="latter")
    page = open_page(site, "/console/queue")
    held: list[Route] = []
    page.route("**/inspections?*lot=former*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks what it calls
    lot_of(page, "former")
    lot_of(page, "latter")
    expect(page.locator("#list li")).to_have_count(1)
    assert held
    for route in held:
        with page.expect_response("**/inspections?*lot=former*"):
            route.continue_()
    inspect(site, part(93), lot="latter")
    expect(page.locator("#list li")).to_have_count(2)
    expect(page.locator("#list li", has_text="latter")).to_have_count(2)


def test_older_ones_are_not_asked_for_by_a_former_filters_cursor(site: Service, open_page: Opener) -> None:
    inspect(site, part(94), lot="cursor")
    asked: list[str] = []

    def with_more(route: Route) -> None:
        asked.append(route.request.url)
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "next_cursor": "of-these-filters"})

    page = open_page(site, "about:blank")
    page.route("**/inspections?*", with_more)
    page.goto("/console/queue")
    more = page.get_by_role("button", name="Load older ones")
    more.wait_for()
    page.get_by_label("Lot").fill("cursor")
    more.click(no_wait_after=True)  # leaves the field: the filter counts from now on
    expect(page.locator("#list li")).to_have_count(1)
    assert not [address for address in asked if "lot=cursor" in address and "cursor=of-these" in address]
    more.click()
    expect(page.get_by_role("alert")).to_be_visible()  # the cursor is made up


def test_a_picture_that_was_not_kept_and_heat_judged_anew(site: Service, open_page: Opener) -> None:
    inspect(site, part(90), lot="kept")
    inspect(site, part(91), lot="kept", store="record", path="/detect")
    page = open_page(site, "/console/queue")
    lot_of(page, "kept")
    expect(page.locator("#list li")).to_have_count(2)
    assert "The picture was not kept" in page.locator(".stage").inner_text()
    assert page.locator(".heat-field").is_hidden()
    page.keyboard.press("j")
    expect(page.locator(".pixels")).to_have_js_property("naturalWidth", 400)
    before = counted(site)
    page.get_by_role("slider", name="Heat").fill("80")
    page.locator("canvas.heat").wait_for()
    assert counted(site) == before
    assert len(httpx.get(f"{site.url}/inspections?lot=kept").json()["inspections"]) == 2  # looking is no inspection


def test_on_a_phone_the_verdict_comes_before_the_past_flaws(site: Service, open_page: Opener) -> None:
    inspect(site, part(94), product="cover", lot="phone")
    page = open_page(site, "/console/queue", width=375)
    lot_of(page, "phone")
    page.locator(".past-flaw").first.wait_for()
    tops = [page.locator(f"#shown {each}").bounding_box() for each in (".picture", ".badge.large", ".past-flaws")]
    assert [each["y"] for each in tops if each] == sorted(each["y"] for each in tops if each)
    assert len([each for each in tops if each]) == 3


def test_hostile_texts_are_texts(site: Service, open_page: Opener) -> None:
    seen = inspect(site, part(95), product=HOSTILE, lot="hostile")
    review(site, seen["id"], label=HOSTILE, cause=HOSTILE, action=HOSTILE)
    inspect(site, part(96), product=HOSTILE, lot="hostile")
    page = open_page(site, "/console/queue")
    lot_of(page, "hostile")
    expect(page.locator("#list li")).to_have_count(1)
    page.locator(".past-flaw").first.click()
    assert page.get_by_label("What is the flaw?").input_value() == HOSTILE
    assert HOSTILE in page.locator("#shown").inner_text()
    assert page.locator("img[onerror]").count() == 0


def test_an_empty_queue_says_that_it_is_live(empty_site: Service, open_page: Opener) -> None:
    page = open_page(empty_site, "/console/queue")
    page.locator("#empty").wait_for()
    assert "Nothing waits" in page.locator("#empty").inner_text()


def test_a_service_that_records_nothing_says_so(forgetful_site: Service, open_page: Opener) -> None:
    page = open_page(forgetful_site, "/console/queue")
    assert "FLAWSCRIBE_STORE is `off`" in page.get_by_role("alert").inner_text()

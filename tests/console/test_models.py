"""The page Models in a real browser: versions, thresholds, the daily check, a candidate in shadow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Route, expect

from tests.console.conftest import Opener
from tests.console.parts import HOSTILE, inspect, part, review
from tests.contract.serving import Service, running, wait_until
from tests.networks import write_bundle


def as_trained(folder: Path) -> None:
    """Give a bundle what a training writes of itself: its pictures, its settings, its report."""
    page = "<!doctype html><title>probe</title><style>h1{color:#123456}</style><h1>What was learned</h1>"
    (folder / "report.html").write_text(page)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["report.html"] = hashlib.sha256(page.encode()).hexdigest()
    manifest["data"]["images"] = {"train": 1400, "validation": 20, "calibration": 40}
    manifest["training"] = {"steps": 2000, "steps_done": 1200}
    manifest["teacher"]["name"] = HOSTILE
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def models_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two versions, of which 1 is in service, and a few reviewed pictures."""
    folder = tmp_path_factory.mktemp("two")
    write_bundle(folder, "probe", 1)
    notes = [f"the reject threshold stands on one good part, {HOSTILE}"]
    as_trained(write_bundle(folder, "probe", 2, gain=2.0, notes=notes))
    (folder / "probe" / "active").write_text("1\n")
    with running(folder, background_nice=0) as service:
        for at, said in ((60, "right"), (100, "overkill"), (140, "right")):
            review(service, inspect(service, part(at), path="/detect")["id"], verdict=said)
        yield service


def test_the_slider_says_overkill_and_escapes_and_writes_a_version(models_site: Service, open_page: Opener) -> None:
    page = open_page(models_site, "/console/models")
    facts = page.locator("#threshold-facts")
    expect(facts).to_contain_text("of 9")
    expect(facts).to_contain_text("1 of 1")  # overkill: the only good one is rejected
    slider = page.get_by_role("slider", name="Reject threshold to try")
    slider.focus()
    page.keyboard.press("End")
    expect(facts).to_contain_text("0 of 1")
    expect(facts).to_contain_text("2 of 2")  # both flawed ones would pass
    page.get_by_role("button", name="Write a version with this threshold").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave it as it is").click()
    assert models_site.state.store.versions("probe") == [1, 2]
    page.get_by_role("button", name="Write a version with this threshold").click()
    page.get_by_role("dialog").get_by_role("button", name="Write a version").click()
    expect(page.locator("#versions tbody tr")).to_have_count(3)
    expect(page.locator("#versions")).to_contain_text("version 1 with another threshold")
    assert models_site.state.store.active_version("probe") == 1


def test_a_version_is_put_in_service_and_rolled_back(models_site: Service, open_page: Opener) -> None:
    page = open_page(models_site, "/console/models")
    row = page.locator("#versions tr", has=page.get_by_role("cell", name="2", exact=True))
    row.get_by_role("button", name="Put in service").click()
    page.get_by_role("dialog").get_by_role("button", name="Put in service").click()
    expect(page.get_by_text("Version 2 of probe is in service.")).to_be_visible()
    expect(row.get_by_role("button")).to_have_count(0)
    assert models_site.state.store.active_version("probe") == 2
    page.get_by_role("button", name="Roll back to version 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back to version 1").click()
    expect(page.get_by_role("button", name="Roll back to version 2")).to_be_visible()
    assert models_site.state.store.active_version("probe") == 1


def test_what_training_noticed_is_told_with_the_version(models_site: Service, open_page: Opener) -> None:
    page = open_page(models_site, "/console/models")
    noticed = page.locator("#versions").get_by_text("noticed at the training: 1")
    expect(noticed).to_have_count(1)  # version 2 alone
    noticed.click()
    expect(page.get_by_text(f"the reject threshold stands on one good part, {HOSTILE}")).to_be_visible()


@pytest.mark.parametrize("width", [375, 1440])
def test_what_a_version_was_trained_on_and_its_report(models_site: Service, open_page: Opener, width: int) -> None:
    page = open_page(models_site, "/console/models", width=width)
    row = page.locator("#versions tbody tr", has_text="1,460 pictures")
    expect(row).to_contain_text("1,400 to learn from, 20 to choose by, 40 for thresholds")
    expect(row).to_contain_text(f"teacher {HOSTILE}, 1,200 steps")
    assert row.locator(".learned").evaluate("box => box.scrollWidth <= box.clientWidth")
    with page.expect_popup() as opened:
        row.get_by_role("link", name="Training report").click()
    heading = opened.value.get_by_role("heading", name="What was learned")
    expect(heading).to_have_css("color", "rgb(18, 52, 86)")
    assert opened.value.url == f"{models_site.url}/models/probe/versions/2/report"


def test_master_parts_are_added_checked_and_removed(models_site: Service, open_page: Opener, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(part(None))
    (tmp_path / "ink.png").write_bytes(part(60))
    page = open_page(models_site, "/console/models")
    check = page.get_by_role("region", name="Daily check")
    check.get_by_text("No master parts yet").wait_for()
    check.get_by_text("Add master parts").click()
    for file, expected, name in (("good.png", "ok", HOSTILE), ("ink.png", "ok", "mistaken")):
        check.get_by_label("Pictures").set_input_files(tmp_path / file)
        check.get_by_label("Must be judged").select_option(expected)
        check.get_by_label("Name").fill(name)
        check.get_by_role("button", name="Add", exact=True).click()
        check.get_by_role("cell", name=name, exact=True).wait_for()
    expect(check).to_contain_text("not checked today")
    check.get_by_role("button", name="Check now").click()
    expect(check).to_contain_text("checked today, failed")
    expect(check.get_by_text("wrong")).to_have_count(1)
    check.get_by_role("button", name="Remove mistaken").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(check.locator("tbody tr")).to_have_count(1)
    check.get_by_role("button", name="Check now").click()
    expect(check).to_contain_text("checked today, passed")


@pytest.mark.parametrize(
    ("zone", "now", "at", "later_version", "passed", "said"),
    [
        ("Asia/Tokyo", "2026-03-02T00:30:00Z", "2026-03-01T23:00:00Z", 0, True, "checked today, passed"),
        ("Asia/Tokyo", "2026-03-01T15:30:00Z", "2026-03-01T14:30:00Z", 0, True, "not checked today"),
        ("America/Los_Angeles", "2026-03-02T02:00:00Z", "2026-03-01T20:00:00Z", 0, False, "checked today, failed"),
        ("America/Los_Angeles", "2026-03-02T02:00:00Z", "2026-03-01T20:00:00Z", 1, True, "not checked today"),
    ],
)
def test_checked_today_is_by_the_viewers_day_and_the_version_in_service(
    models_site: Service,
    open_page: Opener,
    zone: str,
    now: str,
    at: str,
    later_version: int,
    passed: bool,
    said: str,
) -> None:
    active = models_site.state.store.active_version("probe")
    assert active is not None
    master = {"id": "a", "name": "good", "expected": "ok", "picture": "/console/static/icon.svg"}
    check = {"at": at, "version": active + later_version, "precision": "float32", "passed": passed, "results": []}
    by_utc = now[:10] == at[:10] and not later_version
    told = {
        "masters": [master],
        "checked_today": by_utc,
        "passed_today": passed if by_utc else None,
        "last_check": check,
    }
    page = open_page(models_site, "/console/queue", timezone_id=zone)
    page.clock.set_fixed_time(now)
    page.route("**/models/probe/masters", lambda route: route.fulfill(json=told))
    page.goto("/console/models")
    expect(page.locator("#check-state")).to_have_text(said)


def test_what_another_person_changes_leaves_the_slider_where_it_is(models_site: Service, open_page: Opener) -> None:
    page = open_page(models_site, "/console/models")
    page.locator("#live[data-state=on]").wait_for()
    slider = page.get_by_role("slider", name="Reject threshold to try")
    slider.focus()
    page.keyboard.press("End")
    tried = slider.input_value()
    added = models_site.client.post(
        "/models/probe/masters", data={"expected": "not_ok", "name": "theirs"}, files={"image": ("ink.png", part(150))}
    )
    assert added.status_code == 201, added.text
    page.get_by_role("cell", name="theirs", exact=True).wait_for()
    assert slider.input_value() == tried
    expect(slider).to_be_focused()
    page.get_by_role("button", name="Remove theirs").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("cell", name="theirs", exact=True)).to_have_count(0)


def test_a_suggested_threshold_is_the_one_that_is_tried(models_site: Service, open_page: Opener) -> None:
    suggested, tried = 0.0, list[str]()

    def suggest(route: Route) -> None:
        nonlocal suggested
        if "at=" in route.request.url:
            tried.append(parse_qs(urlsplit(route.request.url).query)["at"][0])
            return route.continue_()
        answer = route.fetch()
        suggested = 7.0123456789 * answer.json()["reject"]  # past what the slider would reach by itself
        return route.fulfill(response=answer, json={**answer.json(), "suggested": {"threshold": suggested}})

    page = open_page(models_site, "about:blank")
    page.route("**/thresholds?*", suggest)
    page.goto("/console/models")
    page.get_by_role("button", name="Suggested").click()
    expect(page.locator("#threshold-facts")).to_contain_text("0 of 1")
    assert [float(at) for at in tried] == [suggested]


def test_a_model_that_cannot_be_read_shows_no_others_thresholds(open_page: Opener, tmp_path: Path) -> None:
    write_bundle(tmp_path, "fine", 1)
    (write_bundle(tmp_path, "spoilt", 1) / "manifest.json").write_text("{")
    with running(tmp_path, model="fine") as service:
        page = open_page(service, "/console/models")
        page.locator("#threshold-facts").wait_for()
        page.locator("#choice select").select_option("spoilt")
        expect(page.locator("#versions")).to_contain_text("Version 1 is refused")
        expect(page.locator("#thresholds > *, #threshold-version > *, #threshold-form > *")).to_have_count(0)
        page.locator("#choice select").select_option("fine")
        page.locator("#threshold-facts").wait_for()
        page.close()


def test_where_the_version_in_service_is_refused_another_ones_thresholds_are_shown(
    open_page: Opener, tmp_path: Path
) -> None:
    write_bundle(tmp_path, "probe", 1)
    (write_bundle(tmp_path, "probe", 2) / "manifest.json").write_text("{")
    (tmp_path / "probe" / "active").write_text("2\n")
    with running(tmp_path, ready=False) as service:
        page = open_page(service, "/console/models")
        page.locator("#threshold-facts").wait_for()
        expect(page.locator("#threshold-version")).to_have_value("1")
        page.close()


def test_a_candidate_runs_in_shadow_and_its_differences_show(models_site: Service, open_page: Opener) -> None:
    page = open_page(models_site, "/console/models")
    shadow = page.get_by_role("region", name="In shadow")
    shadow.get_by_text("No candidate runs").wait_for()
    row = page.locator("#versions tr", has=page.get_by_role("cell", name="2", exact=True))
    row.get_by_role("button", name="Run in shadow").click()
    expect(shadow).to_contain_text("version 2 beside version 1")
    wait_until(lambda: models_site.client.get("/models/probe/shadow").json()["state"] == "running")
    seen = inspect(models_site, part(60, 175), path="/detect")
    expect(shadow.locator("#compared")).to_have_text("1")
    expect(shadow.locator("td.differs")).to_have_count(1)
    link = shadow.get_by_role("link", name=seen["id"][:8])
    assert link.get_attribute("href") == f"/console/history#{seen['id']}"
    shadow.get_by_role("button", name="Stop").click()
    expect(shadow).to_contain_text("stopped by a person")


def test_drift_latency_and_a_failure_that_passes(models_site: Service, open_page: Opener) -> None:
    page = open_page(models_site, "/console/models")
    expect(page.get_by_role("region", name="Drift")).to_contain_text("too few parts")
    expect(page.get_by_role("region", name="Latency")).to_contain_text("99 % within")
    page.route("**/models", lambda route: route.fulfill(status=503, json={"title": "Not ready", "detail": "loading"}))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("loading")
    page.unroute("**/models")
    page.get_by_role("button", name="Try again").click()
    page.locator("#versions table").wait_for()


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("path", ["/console/models", "/console/train"])
def test_nothing_is_wider_than_the_window(models_site: Service, open_page: Opener, path: str, width: int) -> None:
    page = open_page(models_site, path, width=width)
    page.locator("#threshold-facts, #past-none").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_a_model_the_pages_say_what_to_do(open_page: Opener, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with running(tmp_path / "models", ready=False, trainings_dir=tmp_path / "trainings") as service:
        page = open_page(service, "/console/models")
        empty = page.locator("#empty")
        expect(empty).to_contain_text("No model yet")
        expect(page.locator("#choice, #shown")).to_have_count(2)
        expect(page.locator("#choice:visible, #shown:visible, #trouble > *")).to_have_count(0)
        empty.get_by_role("link", name="Train").click()
        page.wait_for_url("**/console/train")
        page.goto("/")
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("No model yet")
        expect(alert).to_contain_text("flawscribe train")
        expect(page.locator("#model-field")).to_be_hidden()
        page.locator("#files").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": part()})
        expect(page.locator("#shown").get_by_role("alert")).to_contain_text("no model in")

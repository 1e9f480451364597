"""What all pages share: widths, landmarks, accessibility, theme, login, texts, and nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from playwright.sync_api import Page, expect

from service.api.access import create_key
from service.console.pages import PAGES
from tests.console.conftest import Opener
from tests.console.parts import inspect, part
from tests.contract.serving import Service, running

CONSOLE = Path(str(files("service.console")))
TEXTS = yaml.safe_load((CONSOLE / "texts" / "en.yaml").read_text())
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "iframes": False}
EVERY = [pytest.param(page.path, id=page.name) for page in PAGES]


def settled(page: Page) -> None:
    """Wait until the page has what it asked for."""
    expect(page.locator(".busy:visible")).to_have_count(0)


@pytest.mark.parametrize("path", EVERY)
def test_every_page_fits_its_width_has_its_landmarks_and_is_accessible(
    site: Service, open_page: Opener, path: str
) -> None:
    page = open_page(site, path, width=375, color_scheme="light")
    settled(page)
    assert page.locator("h1").count() == 1
    assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
    assert page.get_by_role("navigation").locator("[aria-current=page]").count() == 1
    assert page.title().endswith("Flawscribe")
    check_widths(page)


def test_a_review_of_several_flaws_fits_and_is_accessible(site: Service, open_page: Opener) -> None:
    inspect(site, part(110, second=True))
    page = open_page(site, "/console/queue", width=375)
    page.get_by_label("Which flaw?").wait_for()
    page.keyboard.press("r")
    settled(page)
    check_widths(page)


def check_widths(page: Page) -> None:
    """On a phone and on a large screen, light and dark."""
    page.evaluate((files("axe_core_python") / "axe.min.js").read_text())
    for width, scheme in ((375, "light"), (1440, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = page.evaluate("(rules) => axe.run(document, rules)", RULES)
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []


def test_the_policy_allows_no_inline_script_and_no_string_as_markup(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports")
    open_page.meant("TrustedHTML")
    policy = httpx.get(f"{site.url}/console/reports").headers["content-security-policy"]
    assert "unsafe" not in policy
    assert page.evaluate(
        "(() => { try { document.body.innerHTML = 'x'; return 'set' } catch { return 'refused' } })()"
    ) == ("refused")


def test_the_theme_is_chosen_and_kept(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == dark


def test_the_first_tab_stop_skips_to_the_content(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/history")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_service_that_does_not_answer_is_said_so(site: Service, open_page: Opener) -> None:
    page = open_page(site, "/console/reports")
    page.locator("#reading").wait_for()
    page.context.set_offline(True)
    page.get_by_role("button", name="Show the report").click()
    alert = page.get_by_role("alert")
    assert "No answer from the service" in alert.inner_text()
    page.context.set_offline(False)
    alert.get_by_role("button", name="Try again").click()
    page.locator("#reading").wait_for()


# ---- login


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def reviewer(keys: Path) -> str:
    return create_key(keys, ("review",), "shift 2")[1]


@pytest.fixture(scope="module")
def guarded(models: Path, keys: Path, reviewer: str) -> Iterator[Service]:
    with running(models, keys_file=keys) as service:
        yield service


def test_a_key_opens_the_page_that_was_asked_for_and_logout_closes_it(
    guarded: Service, open_page: Opener, reviewer: str
) -> None:
    page = open_page(guarded, "/console/history")
    field, enter = page.get_by_label("API key"), page.get_by_role("button", name="Log in")
    field.fill("fls_wrong")
    enter.click()
    assert "no key of this service" in page.get_by_role("alert").inner_text()
    field.fill(reviewer)
    enter.click()
    page.wait_for_url("**/console/history")
    page.locator("#live[data-state=on]").wait_for()  # an event stream can send a cookie and nothing else
    shown = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert {"Queue", "History", "Reports"} <= set(shown)
    assert "Inspect" not in shown  # needs another scope
    page.goto("/")
    assert "detect" in page.get_by_role("main").inner_text()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto("/console/queue")
    page.wait_for_url("**/login?next=/console/queue")


def log_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


def test_login_leads_to_the_very_address_that_was_asked_for(guarded: Service, open_page: Opener, reviewer: str) -> None:
    address = f"{guarded.url}/console/history?lot=L%267+%C3%A9&verdict=not_ok#{'0' * 32}"
    page = open_page(guarded, address)
    page.wait_for_url(re.compile(r"/login\?next="))
    log_in(page, reviewer)
    expect(page).to_have_url(address)
    expect(page.locator("[name=lot]")).to_have_value("L&7 é")
    expect(page.locator("[name=verdict]")).to_have_value("not_ok")
    page.get_by_role("dialog").get_by_role("alert").wait_for()  # there is no such inspection
    page.context.clear_cookies()  # the session ends under the page's hands
    page.get_by_role("dialog").get_by_role("button", name="Try again").click()
    page.wait_for_url(re.compile(r"/login\?next="))
    log_in(page, reviewer)
    expect(page).to_have_url(address)


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/.//evil.example/",
        "/\t/evil.example/",
        "\t//evil.example/",
        "/\n\\evil.example/",
        "//[",
        "javascript:alert(1)",
        "console/history",
    ],
)
def test_login_goes_on_only_within_the_service(
    guarded: Service, open_page: Opener, reviewer: str, elsewhere: str
) -> None:
    page = open_page(guarded, f"/login?next={quote(elsewhere)}")
    log_in(page, reviewer)
    page.wait_for_url(lambda url: not url.startswith(f"{guarded.url}/login"))
    assert page.url.startswith(f"{guarded.url}/")
    page.goto(f"/login?next={quote(elsewhere)}")  # once logged in, the service itself sends on
    assert page.url.startswith(f"{guarded.url}/")


def test_a_link_to_the_login_leads_on_whoever_is_logged_in(guarded: Service, open_page: Opener, reviewer: str) -> None:
    page = open_page(guarded, "/login")
    log_in(page, reviewer)
    page.wait_for_url("**/console/queue")  # the first page that the key opens
    assert page.get_by_role("link", name="Flawscribe").get_attribute("href") == "/console/queue"
    address = f"/console/history?lot=L%267+%C3%A9#{'0' * 32}"
    page.goto(f"/login?next={quote('/console/history?lot=L%267+%C3%A9')}#{'0' * 32}")
    expect(page).to_have_url(f"{guarded.url}{address}")
    page.goto("/login")
    expect(page).to_have_url(f"{guarded.url}/console/queue")


def test_a_key_for_reviews_opens_every_page_that_it_is_offered(
    guarded: Service, open_page: Opener, reviewer: str
) -> None:
    page = open_page(guarded, "/console/models")
    log_in(page, reviewer)
    page.locator("#versions table").wait_for()
    expect(page.get_by_role("alert")).to_have_count(0)


# ---- texts and references


def imported(module: Path) -> set[Path]:
    """The module and all that it imports, at any distance."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [path.with_name(name) for name in re.findall(r"""["']\./([\w-]+\.js)["']""", path.read_text())]
    return found


@pytest.mark.parametrize("page", sorted(TEXTS["pages"]))
def test_every_text_that_a_pages_modules_use_is_in_the_catalogue(page: str) -> None:
    """Of a key put together at run time, such as `shell.stage_${stage}`, at least one with that beginning."""
    for module in imported(CONSOLE / "static" / f"{page}.js"):
        for key in re.findall(r"""\btext\(\s*["'`]([^"'`]+)["'`]""", module.read_text()):
            start, dynamic, _ = key.partition("${")
            *path, last = start.split(".")
            found: Any = TEXTS if key.startswith(("shell.", "verdicts.")) else TEXTS["pages"][page]
            for step in path:
                found = found[step]
            names = [name for name in found if name.startswith(last)] if dynamic else [last] * (last in found)
            assert names, f"{module.name} uses the text {key!r}, which {page} does not have in texts/en.yaml"


def test_nothing_refers_to_the_outside() -> None:
    for path in sorted(CONSOLE.rglob("*")):
        if path.suffix in (".js", ".css", ".html", ".svg"):
            references = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"')]*", path.read_text())
            assert [each for each in references if "www.w3.org" not in each] == [], path


@pytest.mark.parametrize("name", ["../pages.py", "..%2fpages.py", "texts/en.yaml", "nothing.js"])
def test_only_static_files_are_served_as_such(site: Service, name: str) -> None:
    assert httpx.get(f"{site.url}/console/static/{name}").status_code == 404


def test_static_files_are_asked_for_anew_and_not_sent_again(site: Service) -> None:
    first = httpx.get(f"{site.url}/console/static/console.css")
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(f"{site.url}/console/static/console.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")

"""A real Chromium on real services. Every page is watched: what its policy blocks, errors, requests elsewhere fail the test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.console.parts import seed
from tests.contract.serving import Service, running
from tests.networks import write_bundle

PATIENCE_MS = (
    120_000  # for anything that is waited for: a busy machine is slow, and one that is not waits no longer for it
)
expect.set_options(timeout=PATIENCE_MS)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@dataclass
class Watch:
    """What goes wrong in a page without being seen."""

    origin: str
    troubles: list[str] = field(default_factory=list)

    def over(self, page: Page) -> None:
        """Watch `page` from now on."""
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        # a refused request is said to the console by the browser itself; tests of failures mean it
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.troubles.append(f"console: {message.text}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "blob:", "data:")):
            self.troubles.append(f"request to {request.url}")


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The browser; ends with this package, since Playwright's loop would be in the way of tests that run their own."""
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the darkness network: dark is a flaw."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder, "probe", 1, working_size=448, global_map=True)
    return folder


@pytest.fixture(scope="package")
def site(models: Path) -> Iterator[Service]:
    """A service with a few inspections."""
    with running(models) as service:
        seed(service)
        yield service


@pytest.fixture(scope="package")
def empty_site(models: Path) -> Iterator[Service]:
    """A service that has seen nothing."""
    with running(models) as service:
        yield service


@pytest.fixture(scope="package")
def forgetful_site(models: Path) -> Iterator[Service]:
    """A service that records nothing, so that what shows records fails."""
    with running(models, store="off") as service:
        yield service


class Opener:
    """Opens watched pages; `troubles` must stay empty."""

    def __init__(self, chromium: Browser) -> None:
        self._chromium = chromium
        self._contexts: list[BrowserContext] = []
        self._watches: list[Watch] = []
        self._meant: list[str] = []

    def __call__(self, service: Service, path: str, *, width: int = 1440, height: int = 900, **context: Any) -> Page:
        opened = self._chromium.new_context(
            base_url=service.url, viewport={"width": width, "height": height}, locale="en-GB", **context
        )
        opened.set_default_timeout(PATIENCE_MS)
        self._contexts.append(opened)
        page = opened.new_page()
        watch = Watch(service.url)
        watch.over(page)
        self._watches.append(watch)
        page.goto(path)
        return page

    def meant(self, text: str) -> None:
        """Trouble with this in it is what the test is after."""
        self._meant.append(text)

    def close(self) -> list[str]:
        """Close all; what went wrong."""
        for context in self._contexts:
            context.close()
        troubles = [trouble for watch in self._watches for trouble in watch.troubles]
        return [trouble for trouble in troubles if not any(text in trouble for text in self._meant)]


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Opener]:
    """open_page(service, path) -> page."""
    opener = Opener(chromium)
    yield opener
    assert opener.close() == []

"""Browser sessions over HTTP: a key for a cookie, CSRF, other sites, revoked keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api.access import KeyRing, create_key, list_keys, revoke_key
from service.api.sessions import COOKIE, LIFE_S, Sessions
from tests.contract.serving import Service, running
from tests.networks import grey_picture, png

FILES = {"image": ("a.png", png(grey_picture()))}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def secret(keys: Path) -> str:
    return create_key(keys, ("detect", "review"), "line 3")[1]


@pytest.fixture(scope="module")
def guarded(models_dir: Path, keys: Path, secret: str) -> Iterator[Service]:
    with running(models_dir, keys_file=keys) as service:
        yield service


@pytest.fixture
def browser(guarded: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=30) as client:
        yield client


def csrf(browser: httpx.Client) -> dict[str, str]:
    page = browser.get("/console/reports").text
    return {"x-csrf-token": page.split('"csrf": "')[1].split('"')[0]}


def test_a_key_buys_a_session_that_pages_and_api_take(browser: httpx.Client, secret: str) -> None:
    assert browser.get("/console/reports").headers["location"] == "/login?next=/console/reports"
    answer = browser.post("/login", json={"key": f" {secret}\n"})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert "Secure" not in cookie
    assert secret not in cookie
    assert browser.get("/inspections").status_code == 200
    assert "line 3" in browser.get("/console/reports").text
    assert browser.get("/login").status_code == 303  # nothing left to log in to


def test_an_unsafe_request_of_a_session_needs_its_csrf_token(browser: httpx.Client, secret: str) -> None:
    browser.post("/login", json={"key": secret})
    refused = browser.post("/detect", files=FILES)
    assert (refused.status_code, "x-csrf-token" in refused.json()["detail"]) == (403, True)
    assert browser.post("/detect", files=FILES, headers={"x-csrf-token": "x" * 32}).status_code == 403
    assert browser.post("/detect", files=FILES, headers=csrf(browser)).status_code == 200
    # a key in a header needs none, and decides alone, whatever the cookie says
    assert browser.post("/detect", files=FILES, headers={"x-api-key": secret}).status_code == 200
    assert browser.post("/detect", files=FILES, headers={"x-api-key": "wrong"} | csrf(browser)).status_code == 401


def test_scopes_of_the_key_are_those_of_the_session(browser: httpx.Client, keys: Path) -> None:
    browser.post("/login", json={"key": create_key(keys, ("detect",))[1]})
    assert browser.get("/inspections").status_code == 403
    refused = browser.get("/console/reports")
    assert refused.status_code == 403
    assert 'href="/console/reports"' not in refused.text


def test_logout_ends_the_session_itself(browser: httpx.Client, secret: str) -> None:
    browser.post("/login", json={"key": secret})
    token = browser.cookies[COOKIE]
    assert browser.post("/logout").status_code == 403  # nor may another page log one out
    assert browser.post("/logout", headers=csrf(browser)).status_code == 204
    assert COOKIE not in browser.cookies
    assert browser.get("/inspections", headers={"cookie": f"{COOKIE}={token}"}).status_code == 401


def test_a_revoked_key_ends_its_sessions(browser: httpx.Client, keys: Path) -> None:
    key, secret = create_key(keys, ("review",))
    browser.post("/login", json={"key": secret})
    assert browser.get("/inspections").status_code == 200
    revoke_key(keys, key.id)
    assert browser.get("/inspections").status_code == 401


@pytest.mark.parametrize("body", ['{"key": "fls_wrong"}', '{"key": ""}', '{"key": 3}', "key=x", "{}", "[" * 5000])
def test_what_is_no_key_opens_nothing(browser: httpx.Client, body: str) -> None:
    answer = browser.post("/login", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 401, 422)
    assert "set-cookie" not in answer.headers


def test_a_form_of_another_site_cannot_log_in(browser: httpx.Client, secret: str) -> None:
    assert browser.post("/login", data={"key": secret}).status_code == 415
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert browser.post("/login", json={"key": secret}, headers=headers).status_code == 403


def test_behind_a_proxys_own_password_a_session_holds(browser: httpx.Client, secret: str) -> None:
    assert browser.post("/login", json={"key": secret}).status_code == 204
    assert browser.get("/models", headers={"authorization": "Basic dXNlcjpwYXNz"}).status_code == 200
    assert browser.get("/models", headers={"authorization": "Bearer wrong"}).status_code == 401


def test_behind_tls_the_cookie_is_secure(browser: httpx.Client, secret: str) -> None:
    forwarded = {"x-forwarded-proto": "https", "origin": "https://plant.example", "sec-fetch-site": "same-origin"}
    answer = browser.post("/login", json={"key": secret}, headers=forwarded)
    assert (answer.status_code, "Secure" in answer.headers["set-cookie"]) == (204, True)


def test_without_keys_other_sites_pages_are_refused_and_programs_are_not(service: Service) -> None:
    client = service.client
    assert client.get("/console/reports").status_code == 200
    assert client.get("/login").headers["location"] == "/"
    assert client.post("/login", json={"key": "x"}).status_code == 422
    for headers in (
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},  # another program's page on this machine
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "authorization": "Basic dXNlcjpwYXNz"},  # a browser adds it by itself
    ):
        assert client.post("/detect", files=FILES, headers=headers).status_code == 403, headers
    assert client.get("/console/reports", headers={"host": "evil.example"}).status_code == 403
    for headers in ({}, {"origin": service.url}, {"sec-fetch-site": "same-origin"}):
        assert client.post("/detect", files=FILES, headers=headers).status_code == 200, headers


def test_a_session_ends_after_its_time(keys: Path, secret: str) -> None:
    now = 0.0
    sessions = Sessions(KeyRing(keys), clock=lambda: now)

    def known(token: str) -> bool:
        headers = [(b"cookie", f"{COOKIE}={token}".encode())]
        return sessions.of(request_with(headers)) is not None

    token, key = sessions.begin(secret)
    assert key in list_keys(keys)
    now = LIFE_S - 1.0
    assert known(token)
    now = LIFE_S + 1.0
    assert not known(token)


def request_with(headers: list[tuple[bytes, bytes]]):  # type: ignore[no-untyped-def]
    from starlette.requests import Request

    return Request({"type": "http", "method": "GET", "headers": headers})

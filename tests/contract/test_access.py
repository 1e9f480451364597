from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api.access import create_key, list_keys, revoke_key
from service.errors import SettingsError
from tests.contract.serving import Service, running
from tests.networks import grey_picture, png, write_bundle

FILES = {"image": ("a.png", png(grey_picture()))}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def secrets(keys: Path) -> dict[str, str]:
    return {scope: create_key(keys, (scope,))[1] for scope in ("detect", "review", "admin")}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def guarded(secrets: dict[str, str], keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models = tmp_path_factory.mktemp("guarded")
    write_bundle(models, "probe", 1)
    write_bundle(models, "probe", 2)
    with running(models, keys_file=keys) as service:
        yield service


def test_a_key_is_needed_but_not_for_health(guarded: Service) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert guarded.client.get(path).status_code == 200
    refused = guarded.client.post("/detect", files=FILES)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert guarded.client.get("/models").status_code == 401
    endless = (bytes(1000) for _ in range(100))
    assert guarded.client.post("/models/probe/activate", content=endless).status_code == 401


def test_both_headers_carry_a_key(guarded: Service, secrets: dict[str, str]) -> None:
    for headers in ({"authorization": f"Bearer {secrets['detect']}"}, {"x-api-key": secrets["detect"]}):
        assert guarded.client.post("/detect", files=FILES, headers=headers).status_code == 200
    wrong = {"x-api-key": secrets["detect"][:-1] + ("A" if secrets["detect"][-1] != "A" else "B")}
    assert guarded.client.post("/detect", files=FILES, headers=wrong).status_code == 401


def test_scopes_bind(guarded: Service, secrets: dict[str, str]) -> None:
    def activate(scope: str) -> int:
        headers = {"x-api-key": secrets[scope]}
        return guarded.client.post("/models/probe/activate", json={"version": 1}, headers=headers).status_code

    assert guarded.client.post("/detect", files=FILES, headers={"x-api-key": secrets["review"]}).status_code == 403
    assert (activate("detect"), activate("review"), activate("admin")) == (403, 403, 200)
    assert guarded.client.post("/detect", files=FILES, headers={"x-api-key": secrets["admin"]}).status_code == 200


def test_keys_are_stored_hashed_and_private(keys: Path, secrets: dict[str, str]) -> None:
    text = keys.read_text()
    assert not any(secret in text or secret[4:] in text for secret in secrets.values())
    assert keys.stat().st_mode & 0o077 == 0


def test_a_revoked_key_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first, _ = create_key(file, ("detect",))
    second, _ = create_key(file, ("admin",), "the engineer")
    revoke_key(file, first.id)
    assert list_keys(file) == (second,)
    with pytest.raises(SettingsError):
        revoke_key(file, first.id)


def test_keys_made_and_revoked_count_from_the_next_request_on(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    write_bundle(tmp_path / "models", "probe", 1)
    old, old_secret = create_key(file, ("detect",))
    with running(tmp_path / "models", keys_file=file) as service:

        def status(secret: str) -> int:
            return service.client.get("/models", headers={"x-api-key": secret}).status_code

        _, new_secret = create_key(file, ("detect",))
        assert (status(old_secret), status(new_secret)) == (200, 200)
        revoke_key(file, old.id)
        assert (status(old_secret), status(new_secret)) == (401, 200)
        file.write_text("{")  # somebody's editor
        assert (status(old_secret), status(new_secret)) == (401, 200)
        file.write_text('{"keys": []}')
        assert (status(old_secret), status(new_secret)) == (401, 401)
        file.unlink()
        assert status(new_secret) == 401


def test_without_keys_only_this_machine_may_ask(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path) as service:
        rebound = {"host": "evil.example"}
        assert service.client.post("/detect", files=FILES, headers=rebound).status_code == 403
        assert httpx.get(f"{service.url}/healthz", headers=rebound).status_code == 200
        for origin in ("https://evil.example", "null"):  # a page of another site, open in this machine's browser
            assert service.client.post("/detect", files=FILES, headers={"origin": origin}).status_code == 403
        assert service.client.post("/detect", files=FILES, headers={"origin": service.url}).status_code == 200
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST", "localhost.:8000"):
            assert service.client.post("/detect", files=FILES, headers={"host": host}).status_code == 200

"""GET /events over a real socket: what is told, resuming, slow clients, the end of the service and of a key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api import event_stream, events
from service.api.access import create_key, revoke_key
from service.api.events import Event
from tests.contract.serving import Service, running, wait_until
from tests.networks import grey_picture, png, write_bundle

GOOD = png(grey_picture())
DARK = grey_picture()
DARK[60:100, 60:100] = 30
FLAWED = png(DARK)


class Listener:
    """The events of an open stream, one after another."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> dict[str, Any]:
        """The next event: its fields, with `data` read as JSON. Comments are passed over."""
        fields: dict[str, Any] = {}
        for line in self._lines:
            if not line and "data" in fields:
                return fields | {"data": json.loads(fields["data"])}
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        raise EOFError


@contextlib.contextmanager
def listening(service: Service, **headers: str) -> Iterator[Listener]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    before = len(service.state.events._streams)
    with service.client.stream("GET", "/events", headers=sent) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield Listener(response)
    wait_until(lambda: len(service.state.events._streams) <= before)


def inspect(service: Service, data: bytes, path: str = "/detect", **headers: str) -> dict[str, Any]:
    sent = {"content-type": "image/png", "x-meta-lot": "L7"} | {k.replace("_", "-"): v for k, v in headers.items()}
    answer = service.client.post(path, content=data, headers=sent)
    assert answer.status_code in (200, 202), answer.text
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def test_inspections_reviews_words_and_models_are_told_as_they_happen(service: Service) -> None:
    with listening(service) as listener:
        result = inspect(service, FLAWED)
        told = listener.next()
        assert (told["event"], told["data"]["id"], told["data"]["verdict"]) == ("inspection", result["id"], "not_ok")
        assert (told["data"]["lot"], told["data"]["created_at"]) == ("L7", told["id"])
        review = {"verdict": "right", "label": "stain <b>", "who": "Kim"}
        assert service.client.post(f"/inspections/{result['id']}/review", json=review).status_code == 201
        told = listener.next()
        assert told["event"] == "review"
        assert {"inspection_id": result["id"], "label": "stain <b>", "verdict": "right"}.items() <= told["data"].items()
        later = inspect(service, FLAWED, "/classify", prefer="respond-async")
        assert {listener.next()["event"] for _ in range(2)} == {"inspection", "words"}
        assert service.client.get(f"/inspections/{later['id']}").json()["classification"]["description"]
        service.client.post("/models/probe/activate", json={"version": 1})
        told = listener.next()
        assert (told["event"], told["data"]["name"], told["data"]["detail"]["activated"]) == ("model", "probe", 1)


def test_a_client_that_comes_back_is_told_what_it_missed(service: Service) -> None:
    with listening(service) as listener:
        inspect(service, GOOD)
        last = listener.next()["id"]
    missed = inspect(service, FLAWED)
    service.client.post(f"/inspections/{missed['id']}/review", json={"verdict": "overkill", "who": "Kim"})
    with listening(service, last_event_id=last) as listener:
        found: list[tuple[str, str]] = []
        while ("review", missed["id"]) not in found:
            told = listener.next()
            found.append((told["event"], told["data"].get("id") or told["data"].get("inspection_id", "")))
        assert ("inspection", missed["id"]) in found
        fresh = inspect(service, GOOD)
        assert listener.next()["data"]["id"] == fresh["id"]


def test_too_much_to_tell_is_said(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_MOST_RESUMED", 2)
    for _ in range(4):
        inspect(service, GOOD)
    with listening(service, last_event_id="2020-01-01T00:00:00+00:00") as listener:
        assert listener.next()["event"] == "missed"
        assert listener.next()["event"] in ("inspection", "review", "model")


@pytest.mark.parametrize("last", ["yesterday", "2026-01-01T00:00:00", "1"])
def test_an_id_that_is_none_is_refused(service: Service, last: str) -> None:
    assert service.client.get("/events", headers={"last-event-id": last}).status_code == 422


def test_silence_is_broken_by_comments(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_BEAT_S", 0.05)
    with service.client.stream("GET", "/events") as response:
        lines = response.iter_lines()
        seen = [next(lines) for _ in range(10)]
    assert "retry: 2000" in seen
    assert seen.count(": ") >= 2


def test_a_client_that_does_not_read_is_dropped_and_holds_up_nobody(service: Service) -> None:
    """It gets so much that neither its queue nor its socket holds it; then its place is free, though it never reads."""
    metrics = service.state.metrics
    host, port = service.url.removeprefix("http://").split(":")
    before = metrics.event_streams_dropped._value.get()
    with socket.create_connection((host, int(port))) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(f"GET /events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        wait_until(lambda: len(service.state.events._streams) == 1)
        big = Event("model", datetime.now(UTC), {"detail": "x" * 100_000})
        loop = service.server.servers[0].get_loop()

        async def flood() -> None:
            for _ in range(400):
                service.state.events.publish(big)
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(flood(), loop).result(30)
        wait_until(lambda: metrics.event_streams_dropped._value.get() == before + 1)
        wait_until(lambda: service.state.lifecycle.in_flight == 0)
        assert inspect(service, GOOD)["verdict"] == "ok"


def test_more_listeners_than_there_is_room_for_are_told_to_wait(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_MOST_STREAMS", 1)
    with listening(service):
        answer = service.client.get("/events")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")


def test_a_key_needs_the_scope_and_a_revoked_one_hears_no_more(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_BEAT_S", 0.05)
    keys = tmp_path / "keys.json"
    detect = create_key(keys, ("detect",))[1]
    key, review = create_key(keys, ("review",))
    with running(models_dir, keys_file=keys) as guarded:
        assert guarded.client.get("/events").status_code == 401
        assert guarded.client.get("/events", headers={"x-api-key": detect}).status_code == 403
        guarded.client.post("/login", json={"key": review})  # an EventSource can send a cookie and nothing else
        with listening(guarded) as listener:
            revoke_key(keys, key.id)
            with pytest.raises(EOFError):
                listener.next()


def test_a_revoked_key_hears_no_more_on_a_busy_line_either(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_pause(stream: events.Stream) -> bytes | None:
        return await stream.waiting.get()

    monkeypatch.setattr(event_stream, "_BEAT_S", 0.0)
    monkeypatch.setattr(event_stream, "_next", no_pause)
    keys = tmp_path / "keys.json"
    detect = create_key(keys, ("detect",))[1]
    key, review = create_key(keys, ("review",))
    with running(models_dir, keys_file=keys) as guarded:
        guarded.client.post("/login", json={"key": review})
        with listening(guarded) as listener:
            guarded.client.post("/detect", files={"image": GOOD}, headers={"x-api-key": detect})
            assert listener.next()["event"] == "inspection"
            revoke_key(keys, key.id)
            guarded.client.post("/detect", files={"image": GOOD}, headers={"x-api-key": detect})
            with pytest.raises(EOFError):
                listener.next()


def test_a_service_that_drains_ends_its_streams(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--models-dir", str(tmp_path / "models")]
    environment = os.environ | {"FLAWSCRIBE_RECORDS_DIR": str(tmp_path / "records"), "FLAWSCRIBE_DRAIN_S": "30"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split(" on ")[1].split()[0]
        with httpx.stream("GET", f"{url}/events", timeout=20) as response:
            process.send_signal(signal.SIGTERM)
            assert b"".join(response.iter_raw()).startswith(b":")  # a whole answer, not one cut off
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()

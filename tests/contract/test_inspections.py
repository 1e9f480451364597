"""Records over a real socket: what is stored, found again, reviewed, and answered once."""

from __future__ import annotations

import base64
import concurrent.futures
import errno
import gc
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api import app, recording
from service.api import inspections as inspections_module
from service.api.access import create_key
from service.api.app import watch_drift
from service.errors import RecordsFailure
from service.records.database import DatabaseAway
from service.records.store import Records
from tests.contract.serving import Gate, Service, running, wait_until
from tests.networks import grey_picture, png, write_bundle

GOOD = png(grey_picture())
BAD_PIXELS = grey_picture()
BAD_PIXELS[60:100, 120:160] = 0
BAD = png(BAD_PIXELS)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models") as made:
        yield made


def detect(service: Service, picture: bytes = BAD, query: str = "", **options: Any) -> Any:
    answer = service.client.post(f"/detect{query}", files={"image": ("a.png", picture)}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def found(service: Service, query: str = "") -> Any:
    answer = service.client.get(f"/inspections{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_was_answered_is_found_again(service: Service) -> None:
    meta = {"serial": "S1", "lot": "L", "station": "3", "shift": "night", "captured_at": "2026-03-09T06:00:00Z"}
    result = detect(service, data=meta)
    assert result["stored"] is True
    record = service.client.get(f"/inspections/{result['id']}").json()
    for field in ("verdict", "anomaly_score", "threshold", "threshold_method", "review_threshold", "p_value"):
        assert record[field] == result[field]
    assert [region["box"] for region in record["regions"]] == [region["box"] for region in result["regions"]]
    assert (record["serial"], record["lot"], record["station"], record["product"]) == ("S1", "L", "3", "probe")
    assert record["metadata"] == {"shift": "night"}
    assert record["captured_at"].startswith("2026-03-09T06:00:00")
    assert record["classification"] is None
    assert record["status"] == "done"
    own = detect(service, query="?threshold=0.4")
    assert service.client.get(f"/inspections/{own['id']}").json()["threshold_method"] == "request"
    assert service.client.get("/inspections/nothing").status_code == 404


def test_storing_is_per_request(service: Service) -> None:
    assert detect(service, query="?store=none")["stored"] is False
    assert found(service)["inspections"] == []
    kept = detect(service, query="?store=image")
    picture = service.client.get(f"/inspections/{kept['id']}/image")
    assert picture.content == BAD
    assert picture.headers["content-type"] == "image/png"
    plain = detect(service, query="?store=record")
    assert service.client.get(f"/inspections/{plain['id']}/image").status_code == 404
    raw = service.client.post(
        "/detect?store=image",
        content=BAD_PIXELS.tobytes(),
        headers={"content-type": "application/octet-stream", "x-image-shape": "224,224,3"},
    ).json()["results"][0]
    assert raw["image"]["sha256"] == hashlib.sha256(BAD_PIXELS.tobytes()).hexdigest()
    assert service.client.get(f"/inspections/{raw['id']}/image").content.startswith(b"\x89PNG")
    assert service.client.post("/detect?store=all", files={"image": ("a.png", BAD)}).status_code == 422


def test_filters_and_pages(service: Service) -> None:
    ids = [detect(service, BAD if k % 2 else GOOD, data={"lot": f"L{k % 3}"})["id"] for k in range(9)]
    assert [each["id"] for each in found(service)["inspections"]] == ids[::-1]
    assert {each["verdict"] for each in found(service, "?verdict=not_ok")["inspections"]} == {"not_ok"}
    assert len(found(service, "?lot=L1")["inspections"]) == 3
    seen, cursor = [], ""
    while True:
        page = found(service, f"?limit=4{cursor}")
        seen += [each["id"] for each in page["inspections"]]
        if page["next_cursor"] is None:
            break
        detect(service)  # what comes in front disturbs no cursor
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids[::-1]
    for wrong in ("?limit=0", "?cursor=x", "?verdict=bad", "?from=yesterday", "?to=2026-13-01", "?from=", "?lots=1"):
        assert service.client.get(f"/inspections{wrong}").status_code == 422, wrong


def test_a_part_is_as_good_as_its_worst_view(service: Service) -> None:
    detect(service, GOOD, data={"serial": "P", "view": "top"})
    detect(service, BAD, data={"serial": "P", "view": "side"})
    part = service.client.get("/parts/P").json()
    assert (part["verdict"], part["shots"]) == ("not_ok", 2)
    detect(service, GOOD, data={"serial": "P", "view": "side"})  # shown again
    assert service.client.get("/parts/P").json()["verdict"] == "ok"
    assert service.client.get("/parts/unheard-of").status_code == 404
    detect(service, GOOD, data={"serial": "A/7"})
    assert service.client.get("/parts/A%2F7").json()["serial"] == "A/7"


def test_reviews_are_added_and_label(service: Service) -> None:
    result = detect(service)
    path = f"/inspections/{result['id']}/review"
    answer = service.client.post(path, json={"verdict": "right", "label": "burn", "cause": "iron", "who": "Kim"})
    assert answer.status_code == 201
    assert answer.json()["label_accepted"] is True
    service.client.post(path, json={"verdict": "right", "comment": "again", "who": "Lee"})
    record = service.client.get(f"/inspections/{result['id']}").json()
    assert [review["who"] for review in record["reviews"]] == ["Kim", "Lee"]
    assert [each["id"] for each in found(service, "?label=burn")["inspections"]] == [result["id"]]
    assert service.client.post(path, json={"verdict": "escape"}).status_code == 422  # it was not let through
    assert service.client.post(path, json={"verdict": "perhaps"}).status_code == 422
    assert service.client.post(path, content=b"{").status_code == 400
    good = f"/inspections/{detect(service, GOOD)['id']}/review"
    refused = service.client.post(good, json={"verdict": "right", "label": "scratch"})
    assert (refused.status_code, "escape" in refused.json()["detail"]) == (422, True)
    assert service.client.post(good, json={"verdict": "right", "label": "ok"}).status_code == 201
    assert "scratch" not in service.client.get("/labels?product=probe").text
    assert service.client.post("/inspections/none/review", json={"verdict": "right"}).status_code == 404


def test_a_time_may_be_a_date_and_is_utc(service: Service) -> None:
    made = detect(service)["id"]
    today = datetime.now(UTC).date()
    for asked in (f"?from={today}", f"?from={today}T00:00:00", f"?to={today + timedelta(days=2)}"):
        assert [each["id"] for each in found(service, asked)["inspections"]] == [made]
    assert found(service, f"?to={today}")["inspections"] == []
    assert service.client.get(f"/inspections.csv?from={today}").text.count("\n") == 2


def test_a_review_that_says_two_things_is_refused(service: Service) -> None:
    place = f"/inspections/{detect(service)['id']}/review"
    for body in ('{"verdict": "right", "verdict": "overkill"}', '{"verdict": "right", "region": true}'):
        assert service.client.post(place, content=body).status_code in (400, 422)
    assert found(service)["inspections"][0]["reviews"] == []


def test_the_same_key_and_body_get_the_same_answer_and_one_record(service: Service) -> None:
    headers = {"idempotency-key": "job-7"}
    first = httpx.post(f"{service.url}/detect", files={"image": ("a.png", BAD)}, headers=headers)
    again = httpx.post(f"{service.url}/detect", files={"image": ("b.png", BAD)}, headers=headers)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["server-timing"] == first.headers["server-timing"]
    drawn = headers | {"accept": "image/png", "idempotency-key": "job-8"}
    shown = [httpx.post(f"{service.url}/detect?store=none", files={"image": BAD}, headers=drawn) for _ in range(2)]
    assert [each.headers["x-verdict"] for each in shown] == ["not_ok", "not_ok"]
    assert "idempotent-replayed" in shown[1].headers
    assert len(found(service)["inspections"]) == 1
    # .NET's client says nothing of what it accepts, which means anything, as most others say
    with httpx.Client() as silent:
        del silent.headers["accept"]
        assert silent.post(f"{service.url}/detect", files={"image": BAD}, headers=headers).content == first.content
    other = httpx.post(f"{service.url}/detect", files={"image": ("a.png", GOOD)}, headers=headers)
    assert other.status_code == 409
    query = httpx.post(f"{service.url}/detect?include=map", files={"image": ("a.png", BAD)}, headers=headers)
    assert query.status_code == 409
    assert "another request" in query.json()["detail"]


def test_what_a_key_may_be(service: Service) -> None:
    def status(key: str) -> int:
        return service.client.post(
            "/detect", files={"image": ("a.png", BAD)}, headers={"idempotency-key": key}
        ).status_code

    assert status("k" * 300) == 200
    assert status("k" * 301) == 422
    assert status("") == 422  # else all clients that leave it empty would share one


def test_a_hundred_duplicates_at_once_leave_one_record(service: Service) -> None:
    limits = httpx.Limits(max_connections=100)
    headers = {"idempotency-key": "burst"}
    gate = Gate(service.session)  # the first of them cannot be answered until all are in
    with (
        httpx.Client(base_url=service.url, headers=headers, limits=limits, timeout=60) as client,
        concurrent.futures.ThreadPoolExecutor(100) as pool,
    ):
        asked = [pool.submit(client.post, "/classify", files={"image": ("a.png", BAD)}) for _ in range(100)]
        try:
            wait_until(lambda: service.state.lifecycle.in_flight == 100)
        finally:
            gate.restore()
        answers = [each.result() for each in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 99
    assert len(found(service)["inspections"]) == 1


def test_a_request_that_failed_frees_its_key(service: Service) -> None:
    headers = {"idempotency-key": "retry"}
    assert service.client.post("/detect", files={"image": ("a.png", b"x")}, headers=headers).status_code == 400
    assert service.client.post("/detect", files={"image": ("a.png", BAD)}, headers=headers).status_code == 200


def test_reports_come_in_every_form(service: Service) -> None:
    detect(service)
    detect(service, GOOD)
    told = service.client.get("/reports").json()
    assert told["schema_version"] == 1
    page = service.client.get("/reports", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "<svg" in page.text
    assert service.client.get("/reports?format=csv").text.count("\n") >= 2
    for wanted, given in (
        ("text/csv", "text/csv"),
        ("image/*, application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("application/json;q=0.2,text/csv", "text/csv"),
        ("text/html;q=0, */*", "application/json"),
        ("text/html;q=0", "application/problem+json"),
        ("image/png", "application/problem+json"),
    ):
        answer = service.client.get("/reports", headers={"accept": wanted})
        assert answer.headers["content-type"].startswith(given), wanted
        assert answer.status_code == (406 if "problem" in given else 200)
    assert service.client.get("/reports?format=csv", headers={"accept": "image/png"}).status_code == 200
    for asked in ({"url": "/reports?summary=true&format=csv"}, {"url": "/reports?summary=true"}):
        refused = service.client.get(asked["url"], headers={"accept": "text/csv"})
        assert (refused.status_code, "no summary" in refused.text) == (422, True)
    assert service.client.get("/reports?from=x").status_code == 422
    assert service.client.get("/reports?form=csv").status_code == 422


def test_scopes_of_the_records(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    keys = tmp_path / "keys.json"
    secret = {scope: create_key(keys, (scope,))[1] for scope in ("detect", "review")}  # type: ignore[arg-type]
    with running(tmp_path / "models", keys_file=keys) as service:

        def status(scope: str, method: str, path: str, **options: Any) -> int:
            return service.client.request(method, path, headers={"x-api-key": secret[scope]}, **options).status_code

        made = service.client.post("/detect", files={"image": ("a.png", BAD)}, headers={"x-api-key": secret["detect"]})
        place = f"/inspections/{made.json()['results'][0]['id']}"
        assert (status("detect", "GET", place), status("review", "GET", place)) == (200, 200)
        assert (status("detect", "GET", "/inspections"), status("review", "GET", "/inspections")) == (403, 200)
        assert status("detect", "POST", f"{place}/review", json={"verdict": "right"}) == 403
        assert status("review", "POST", f"{place}/review", json={"verdict": "right", "who": "Kim"}) == 201
        record = service.client.get(place, headers={"x-api-key": secret["review"]}).json()
        assert record["reviews"][0]["who"].startswith("Kim (key ")
        assert (status("detect", "GET", "/reports"), status("review", "GET", "/reports")) == (403, 200)


def test_without_records_detection_goes_on(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models", store="off", records_dir=tmp_path / "records") as service:
        assert detect(service)["stored"] is False
        assert not (tmp_path / "records").exists()
        for options in ({"params": {"store": "record"}}, {"headers": {"idempotency-key": "k"}}):
            assert service.client.post("/detect", files={"image": ("a.png", BAD)}, **options).status_code == 422
        assert service.client.get("/inspections").status_code == 404
        assert service.client.get("/models/probe/thresholds").status_code == 200
        assert service.client.post("/classify", files={"image": ("a.png", BAD)}).status_code == 200


def test_a_request_may_ask_for_what_is_not_kept_by_default(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models", store="none", records_dir=tmp_path / "records") as service:
        assert detect(service)["stored"] is False
        assert found(service)["inspections"] == []
        kept = detect(service, query="?store=record")
        assert kept["stored"] is True
        assert [each["id"] for each in found(service)["inspections"]] == [kept["id"]]
        headers = {"idempotency-key": "k"}
        once, again = (service.client.post("/detect", files={"image": BAD}, headers=headers) for _ in range(2))
        assert once.content == again.content
        assert len(found(service)["inspections"]) == 1  # a key keeps the answer, not a record of the part


def test_failing_records_cost_no_detection_unless_they_were_asked_for(service: Service, monkeypatch: Any) -> None:
    from service.errors import RecordsFailure

    def broken(*_: Any) -> Any:
        raise RecordsFailure("the disk is full")

    monkeypatch.setattr(service.state.records, "save", broken)
    assert detect(service)["stored"] is False
    refused = service.client.post("/detect?store=record", files={"image": ("a.png", BAD)})
    assert refused.status_code == 503
    assert service.state.metrics.registry.get_sample_value("flawscribe_records_failed_total") == 2


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the database may be reached; it is away until then."""
    there = threading.Event()

    def records(*asked: Any) -> Records:
        if not there.is_set():
            raise DatabaseAway("records database postgresql+psycopg://db/flawscribe: connection refused")
        return Records(*asked)

    monkeypatch.setattr(app, "Records", records)
    monkeypatch.setattr(app, "_AGAIN_S", 0.05)
    return there


def test_a_database_that_comes_up_late_is_waited_for(tmp_path: Path, there: threading.Event) -> None:
    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path, ready=False) as service:
        told = service.client.get("/readyz")
        assert (told.status_code, "database cannot be used" in told.text) == (503, True)
        assert "connection refused" not in told.text  # where it lies, and as whom, is for the log alone
        there.set()
        wait_until(lambda: service.client.get("/readyz").status_code == 200)
        assert detect(service)["stored"] is True


def test_a_sound_version_activated_while_the_database_is_away_counts(
    tmp_path: Path, there: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    write_bundle(tmp_path, "probe", 1)
    damaged = write_bundle(tmp_path, "probe", 2) / "model.onnx"
    damaged.write_bytes(damaged.read_bytes() + b"\0")
    (tmp_path / "probe" / "active").write_text("2\n")
    with running(tmp_path, ready=False, model="probe") as service:
        assert service.client.post("/models/probe/activate", json={"version": 1}).status_code == 200
        assert "by anybody is not in the audit" in caplog.text
        there.set()
        wait_until(lambda: service.client.get("/readyz").status_code == 200)
        assert detect(service)["stored"] is True


def test_records_that_stall_hold_up_no_detection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.recording._LEAST_SAVE_S", 0.05)
    monkeypatch.setattr("service.records.idempotency._LEAST_WAIT_S", 0.05)
    opened = threading.Event()
    assert service.state.records is not None
    held = service.state.records.writer.submit(lambda _: opened.wait(60))
    try:
        soon = {"x-deadline-ms": "500"}
        assert detect(service, headers=soon)["stored"] is False
        for asked in ({"params": {"store": "record"}}, {"headers": {"idempotency-key": "k"}}):
            headers = {**soon, **asked.get("headers", {})}
            answer = service.client.post(
                "/detect", files={"image": BAD}, headers=headers, params=asked.get("params", {})
            )
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/records-failure")
        assert not held.done()
    finally:
        opened.set()
    assert held.result(20) is True
    assert detect(service)["stored"] is True
    assert detect(service, headers={"idempotency-key": "k"})["stored"] is True


def test_slow_looks_into_the_records_hold_up_no_detection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, begun = threading.Event(), threading.Semaphore(0)

    def slow(*_: Any, **__: Any) -> Any:
        begun.release()
        opened.wait(60)
        raise RecordsFailure("the database stalls")

    assert service.state.records is not None
    monkeypatch.setattr(type(service.state.records.inspections), "page", slow)
    many = (os.cpu_count() or 1) + 8  # more than asyncio's own pool has threads
    with ThreadPoolExecutor(many) as pool:
        looks = [pool.submit(httpx.get, f"{service.url}/inspections", timeout=60) for _ in range(many)]
        try:
            assert begun.acquire(timeout=20)
            wait_until(lambda: service.state.lifecycle.in_flight >= many)
            body = {"images": [{"data": base64.b64encode(BAD).decode()}]}
            answer = service.client.post("/detect", json=body, headers={"idempotency-key": "looks"})
            assert (answer.status_code, any(look.done() for look in looks)) == (200, False)
        finally:
            opened.set()
    assert {look.result().status_code for look in looks} == {503}


def test_many_records_are_told_away_from_the_event_loop(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    told = inspections_module._told
    where: set[str] = set()

    def noted(*asked: Any) -> Any:
        where.add(threading.current_thread().name.rpartition("_")[0])
        return told(*asked)

    seen = detect(service, headers={"x-meta-serial": "S1"})
    monkeypatch.setattr(inspections_module, "_told", noted)
    for path in ("/inspections", f"/inspections/{seen['id']}", "/parts/S1"):
        assert service.client.get(path).status_code == 200
    assert where == {"flawscribe-reads"}


def test_a_review_is_answered_though_others_read_the_records(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspections_module, "_LEARN_S", 0.1)
    seen = detect(service)
    opened = threading.Event()
    held = [service.state.readers.submit(opened.wait, 60) for _ in range(16)]
    try:
        said = {"verdict": "right", "label": "ink"}
        assert service.client.post(f"/inspections/{seen['id']}/review", json=said).status_code == 201
        assert not any(each.done() for each in held)
    finally:
        opened.set()


def test_what_cannot_be_set_up_is_told_in_the_log_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    (tmp_path / "secret-place").write_bytes(b"no folder")
    with running(tmp_path / "models", records_dir=tmp_path / "secret-place", ready=False) as service:
        told = service.client.get("/readyz")
        assert (told.status_code, "secret-place" in told.text) == (503, False)
        assert "the service's log says which" in told.json()["detail"]
    assert "secret-place" in caplog.text


def test_housekeeping_goes_on_whatever_a_disk_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []

    def broken(_: Any) -> None:
        rounds.append(1)
        if len(rounds) > 1:  # the first is that of the start
            raise OSError(errno.ESTALE, "stale file handle")

    monkeypatch.setattr(app, "_HOUSEKEEPING_S", 0.02)
    monkeypatch.setattr(app, "show_checks", broken)
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models"):
        wait_until(lambda: len(rounds) > 3)


def stall(service: Service, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[Any]]:
    """From now on the picture folder's `put` or `get` waits for the event; the calls that have begun."""
    opened, begun = threading.Event(), []
    assert service.state.records is not None
    done = getattr(service.state.records.pictures, name)

    def stalled(*asked: Any) -> Any:
        begun.append(asked)
        assert opened.wait(60)
        return done(*asked)

    monkeypatch.setattr(service.state.records.pictures, name, stalled)
    return opened, begun


def test_a_picture_folder_that_stalls_holds_up_no_detection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.recording._LEAST_SAVE_S", 0.05)
    monkeypatch.setattr("service.api.recording._MOST_SAVE_S", 0.05)
    opened, begun = stall(service, "put", monkeypatch)
    service.state.settings = service.state.settings.model_copy(update={"store": "image"})
    try:
        for _ in range(12):  # more than there are threads of any kind
            assert detect(service)["stored"] is False
        body = {"images": [{"data": base64.b64encode(BAD).decode()}]}
        assert service.client.post("/detect", json=body).status_code == 200  # read in a thread
        asked = service.client.post(
            "/detect", files={"image": BAD}, params={"store": "image"}, headers={"x-deadline-ms": "200"}
        )
        assert (asked.status_code, asked.json()["type"]) == (503, "/problems/records-failure")
        assert len(begun) == 4
        gc.collect()
        lists = [each for each in gc.get_objects() if type(each) is list]  # isinstance would ask proxies of torch
        alive = [each for each in lists if len(each) == 1 and type(each[0]) is tuple and each[0][1:] == (BAD,)]
        assert len(alive) == len(begun)  # pictures of requests that were answered do not pile up in memory
    finally:
        opened.set()
    wait_until(lambda: detect(service)["stored"] is True)


def test_a_picture_folder_that_stalls_when_read_holds_up_nothing_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = detect(service, params={"store": "image"})["id"]
    opened, begun = stall(service, "get", monkeypatch)
    soon = {"x-deadline-ms": "50"}
    try:
        for part in ("image", "map", "overlay") * 4:
            answer = service.client.get(f"/inspections/{kept}/{part}", headers=soon)
            assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
        assert len(begun) == 4  # what nobody waits for any more is not read
        assert detect(service, params={"store": "image"})["stored"] is True
        assert service.client.get(f"/inspections/{kept}").status_code == 200
    finally:
        opened.set()
    assert service.client.get(f"/inspections/{kept}/image").content == BAD


def test_a_record_is_never_read_as_done_before_its_words_are_there(service: Service) -> None:
    """They are waited for from before the record is written."""
    assert service.state.records is not None
    later = {"prefer": "respond-async"}
    opened = threading.Event()
    held = service.state.records.writer.submit(lambda _: opened.wait(60))
    with ThreadPoolExecutor(1) as pool:
        try:
            asked = pool.submit(service.client.post, "/classify", files={"image": BAD}, headers=later)
            wait_until(lambda: len(service.state.pending) == 1)
            (inspection_id,) = service.state.pending
            assert service.client.get(f"/inspections/{inspection_id}").status_code == 404
        finally:
            opened.set()
        assert held.result(20) is True
        assert asked.result().json()["results"][0]["id"] == inspection_id
    wait_until(lambda: service.client.get(f"/inspections/{inspection_id}").json()["status"] == "done")
    assert service.client.get(f"/inspections/{inspection_id}").json()["classification"]["source"] == "rules"


def test_words_of_what_could_not_be_recorded_are_waited_for_by_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.recording._LEAST_SAVE_S", 0.05)
    assert service.state.records is not None
    opened = threading.Event()
    held = service.state.records.writer.submit(lambda _: opened.wait(60))
    try:
        headers = {"prefer": "respond-async", "x-deadline-ms": "300"}
        assert service.client.post("/classify", files={"image": BAD}, headers=headers).status_code == 503
        wait_until(lambda: not service.state.pending)
    finally:
        opened.set()
    assert held.result(20) is True


def test_the_time_that_bare_pixels_take_to_be_packed_is_not_the_disk_s(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = recording._png

    def slowly(pixels: Any) -> bytes:
        assert not late.wait(0.2)
        return packed(pixels)

    late = threading.Event()
    monkeypatch.setattr("service.api.recording._png", slowly)
    monkeypatch.setattr("service.api.recording._MOST_SAVE_S", 0.1)
    monkeypatch.setattr("service.api.recording._LEAST_SAVE_S", 0.1)
    service.state.settings = service.state.settings.model_copy(update={"store": "image"})
    pixels = np.full((64, 64, 3), 128, np.uint8)
    answer = service.client.post(
        "/detect",
        content=pixels.tobytes(),
        headers={"content-type": "application/octet-stream", "x-image-shape": "64,64,3"},
    )
    (result,) = answer.json()["results"]
    assert result["stored"] is True
    shown = Image.open(io.BytesIO(service.client.get(f"/inspections/{result['id']}/image").content))
    assert np.array_equal(np.asarray(shown), pixels)


def test_words_that_come_while_their_record_is_read_are_still_to_come(service: Service) -> None:
    """The record was read without them: told to be done, it would have none for ever."""
    assert service.state.records is not None
    asked = detect(service)["id"]
    service.state.pending[asked] = None  # type: ignore[assignment]
    inspections = service.state.records.inspections
    get = inspections.get

    def read(inspection_id: str) -> Any:
        record = get(inspection_id)
        service.state.pending.pop(inspection_id)
        return record

    inspections.get = read  # type: ignore[method-assign]
    told = [service.client.get(f"/inspections/{asked}").json()["status"]]
    inspections.get = get  # type: ignore[method-assign]
    told.append(service.client.get(f"/inspections/{asked}").json()["status"])
    assert told == ["pending", "done"]


def test_a_database_that_goes_away_while_it_is_read_at_start_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path, "probe", 1)
    away, closed, read = threading.Event(), [], app.Follower
    close = Records.close

    def follower(*asked: Any) -> Any:
        if not away.is_set():
            raise RecordsFailure("server closed the connection unexpectedly")
        return read(*asked)

    def closing(self: Records) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(app, "Follower", follower)
    monkeypatch.setattr(Records, "close", closing)
    monkeypatch.setattr(app, "_AGAIN_S", 0.05)
    with running(tmp_path, ready=False) as service:
        told = service.client.get("/readyz")
        assert (told.status_code, "database cannot be used" in told.text) == (503, True)
        wait_until(lambda: len(closed) > 1)
        assert service.state.records is None
        away.set()
        wait_until(lambda: service.client.get("/readyz").status_code == 200)
        assert detect(service)["stored"] is True


def test_the_first_model_that_is_activated_while_the_database_is_away_answers(
    tmp_path: Path, there: threading.Event
) -> None:
    with running(tmp_path, ready=False) as service:
        write_bundle(tmp_path, "probe", 1)
        assert service.client.post("/models/probe/activate", json={"version": 1}).status_code == 200
        there.set()
        wait_until(lambda: service.client.get("/readyz").status_code == 200)
        assert detect(service)["stored"] is True


def test_records_take_any_metadata(service: Service) -> None:
    odd = {"data": {"ключ": "значение", "note": "a\x00b"}}
    assert detect(service, **odd)["stored"] is True
    assert np.isfinite(found(service)["inspections"][0]["anomaly_score"])


def test_thresholds_are_advised_from_reviews_and_applied_as_a_new_version(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models", records_dir=tmp_path / "records") as service:
        for level in range(0, 240, 12):
            picture = grey_picture(level=255)
            picture[60:100, 120:160] = level
            result = detect(service, png(picture))
            truly_flawed = level < 150
            wrong = "escape" if truly_flawed else "overkill"
            if truly_flawed == (result["verdict"] != "ok"):
                wrong = "right"
            said = {"verdict": wrong, "who": "Kim"}
            assert service.client.post(f"/inspections/{result['id']}/review", json=said).status_code == 201
    environment = {**os.environ, "FLAWSCRIBE_MODELS_DIR": str(tmp_path / "models")}
    environment["FLAWSCRIBE_RECORDS_DIR"] = str(tmp_path / "records")

    def thresholds(*options: str) -> str:
        command = [sys.executable, "-m", "service", "thresholds", "probe", "--form", "float32", *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    table = thresholds()
    assert "13 flawed pictures" in table
    assert "present" in table
    told = json.loads(thresholds("--json", "--most-escapes", "0.5"))
    assert 1 - 150 / 255 < told["suggested"]["threshold"] < 1
    assert "version" in thresholds("--apply", "0.4")
    assert (tmp_path / "models" / "probe" / "2" / "manifest.json").is_file()


def test_a_model_is_recalibrated_by_the_parts_it_accepted_and_people_called_good(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models", records_dir=tmp_path / "records") as service:
        for number in range(25):  # scores 0.2 and more, where calibration saw 0.05 to 0.21
            detect(service, png(grey_picture(level=204 - number % 5)), data={"serial": f"S{number}"})
        rejected = detect(service)

        def recalibrate(*options: str) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "FLAWSCRIBE_MODELS_DIR": str(tmp_path / "models")}
            environment["FLAWSCRIBE_RECORDS_DIR"] = str(tmp_path / "records")
            command = [sys.executable, "-m", "service", "recalibrate", "probe", *options]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        refused = recalibrate()
        assert refused.returncode == 2
        assert "1 flagged pictures have no review" in refused.stderr
        said = {"verdict": "right", "label": "burn"}
        assert service.client.post(f"/inspections/{rejected['id']}/review", json=said).status_code == 201
        assert "20 good parts" in recalibrate("--to", "2020-01-01").stderr
        done = recalibrate()
        assert done.returncode == 0, done.stderr
        assert "0 of 1 reviewed flawed pictures would not be rejected" in done.stdout
        assert service.client.get("/models/probe").json()["active_version"] == 1  # until a person says so
        switched = service.client.post("/models/probe/activate", json={"version": 2})
        assert switched.status_code == 200, switched.text
        result = detect(service, png(grey_picture(level=204)))
        assert result["p_value"] > 0.5  # usual now; 1 of 10 by the first calibration
        assert result["threshold"] < 0.5
        assert result["threshold_method"] == "conformal"


def test_forms_that_judged_nothing_are_recalibrated_by_the_kept_pictures(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1, int8_gain=0.5)
    with running(tmp_path / "models", records_dir=tmp_path / "records", store="image", provider="cpu") as service:
        for number in range(20):
            answer = detect(service, png(grey_picture(level=204 - number)), data={"serial": f"S{number}"})
            assert answer["verdict"] == "ok"
        assert service.client.get("/models/probe").json()["versions"][0]["active"]
    environment = {**os.environ, "FLAWSCRIBE_MODELS_DIR": str(tmp_path / "models")}
    environment |= {"FLAWSCRIBE_RECORDS_DIR": str(tmp_path / "records")}
    base = [sys.executable, "-m", "service", "recalibrate", "probe", "--version", "1"]
    for options in ([], ["--kept-pictures"], ["--form", "float32", "--kept-pictures"]):
        subprocess.run([*base, *options], env=environment, check=True, capture_output=True)
    told = [json.loads((tmp_path / f"models/probe/{each}/manifest.json").read_text()) for each in (1, 2, 3, 4)]
    assert told[1]["forms"]["float32"] == told[0]["forms"]["float32"]
    both = told[2]["forms"]
    assert both["float32"]["calibration_scores"] == pytest.approx(
        [2 * score for score in both["int8"]["calibration_scores"]], rel=1e-4
    )
    assert [told[2]["metrics"]["recalibration"][form]["rescored"] for form in ("int8", "float32")] == [False, True]
    assert told[3]["forms"]["float32"] == both["float32"]
    assert told[3]["forms"]["int8"] == told[0]["forms"]["int8"]


def test_drift_shows_in_the_metrics(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    value = service.state.metrics.registry.get_sample_value
    for k in range(60):
        detect(
            service, png(grey_picture(level=200 + k % 3))
        )  # far above what calibration saw of good parts, below review
    watch_drift(service.state, datetime.now(UTC) + timedelta(minutes=1))
    assert value("flawscribe_drift_state", {"model": "probe"}) in (2, 3)
    assert (value("flawscribe_drift_psi", {"model": "probe"}) or 0) > 0.1
    monkeypatch.setattr(type(service.state.store), "in_service", lambda store: [])  # it has made room for others
    watch_drift(service.state, datetime.now(UTC) + timedelta(minutes=1))
    assert value("flawscribe_drift_state", {"model": "probe"}) is None
    assert value("flawscribe_drift_psi", {"model": "probe"}) is None


def test_drift_is_judged_soon_after_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_DRIFT_S", 0.1)
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models") as service:
        for k in range(60):
            detect(service, png(grey_picture(level=200 + k % 3)))
        value = service.state.metrics.registry.get_sample_value
        wait_until(lambda: (value("flawscribe_drift_state", {"model": "probe"}) or 0) >= 2)


def test_a_version_that_comes_into_service_is_judged_for_drift_whatever_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []
    monkeypatch.setattr(app, "_DRIFT_S", 0.05)
    passes: list[float] = []  # each asks for the time once
    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: passes.append(0.0) or 0.0))  # no pause ever ends
    monkeypatch.setattr(
        app, "watch_drift", lambda state, now: judged.extend(each.identity.version for each in state.store.in_service())
    )
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models") as service:
        wait_until(lambda: judged == [1])
        write_bundle(tmp_path / "models", "probe", 2)
        assert service.client.post("/models/probe/activate", json={"version": 2}).status_code == 200
        wait_until(lambda: judged == [1, 2])
        later = len(passes) + 5
        wait_until(lambda: len(passes) >= later)
    assert judged == [1, 2]

"""The service on PostgreSQL, over a real socket and on a real server: stored, found, replayed, reviewed, reported, and shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.serving import Service, running, wait_until
from tests.contract.test_inspections import BAD, GOOD, detect, found
from tests.networks import write_bundle

SAID = {"verdict": "right", "label": "burn", "cause": "hot iron", "action": "Lower the heat.", "who": "Kim"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "models", "probe", 1)
    return tmp_path


@pytest.fixture
def service(folder: Path, postgres_url: str) -> Iterator[Service]:
    with on(folder, postgres_url) as made:
        yield made


def on(folder: Path, url: str) -> AbstractContextManager[Service]:
    """A service with these models and pictures, and its records in that database."""
    return running(folder / "models", database_url=url, records_dir=folder / "records")


def review(service: Service, inspection: str, **said: str) -> Any:
    answer = service.client.post(f"/inspections/{inspection}/review", json=SAID | said)
    assert answer.status_code == 201, answer.text
    return answer.json()


def words_for(service: Service, picture: bytes) -> Any:
    answer = service.client.post("/classify?store=none", files={"image": ("a.png", picture)})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["regions"][0]["classification"]


def asked(service: Service, picture: bytes, key: str) -> httpx.Response:
    headers = {"idempotency-key": key}
    return service.client.post("/detect", files={"image": ("a.png", picture)}, headers=headers)


def test_what_was_answered_is_found_again(service: Service, folder: Path) -> None:
    meta = {"serial": "S1", "lot": "L", "shift": "night", "captured_at": "2026-03-09T06:00:00Z"}
    result = detect(service, query="?store=image", data=meta)
    assert result["stored"] is True
    record = service.client.get(f"/inspections/{result['id']}").json()
    for field in ("verdict", "anomaly_score", "threshold", "p_value"):
        assert record[field] == result[field]
    assert [region["box"] for region in record["regions"]] == [region["box"] for region in result["regions"]]
    assert (record["serial"], record["lot"], record["metadata"]) == ("S1", "L", {"shift": "night"})
    assert record["captured_at"].startswith("2026-03-09T06:00:00")
    assert service.client.get(f"/inspections/{result['id']}/image").content == BAD
    assert service.client.get("/parts/S1").json()["verdict"] == "not_ok"
    assert not list((folder / "records").glob("*.sqlite*"))  # it is all in the database that was named


def test_filters_and_pages(service: Service) -> None:
    ids = [detect(service, BAD if k % 2 else GOOD, data={"lot": f"L{k % 3}"})["id"] for k in range(9)]
    assert [each["id"] for each in found(service, "?verdict=not_ok")["inspections"]] == ids[1::2][::-1]
    assert [each["id"] for each in found(service, "?lot=L1")["inspections"]] == ids[1::3][::-1]
    seen, cursor = [], ""
    while cursor is not None:
        page = found(service, f"?limit=4{cursor and f'&cursor={cursor}'}")
        seen += [each["id"] for each in page["inspections"]]
        cursor = page["next_cursor"]
        detect(service)  # what comes in front disturbs no cursor
    assert seen == ids[::-1]


def test_the_same_key_and_body_get_the_same_answer_and_one_record(service: Service) -> None:
    first, again = asked(service, BAD, "job-7"), asked(service, BAD, "job-7")
    assert first.status_code == 200
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert asked(service, GOOD, "job-7").status_code == 409
    assert len(found(service)["inspections"]) == 1


def test_a_review_labels_and_teaches(service: Service) -> None:
    result = detect(service)
    told = review(service, result["id"])
    assert told["label_accepted"] is True
    record = service.client.get(f"/inspections/{result['id']}").json()
    assert [(each["who"], each["label"], each["case_id"]) for each in record["reviews"]] == [
        ("Kim", "burn", told["case_id"])
    ]
    assert [each["id"] for each in found(service, "?label=burn")["inspections"]] == [result["id"]]
    assert words_for(service, BAD)["similar"][0]["inspection_id"] == result["id"]
    refused = service.client.post(f"/inspections/{result['id']}/review", json={"verdict": "escape"})
    assert refused.status_code == 422  # it was not let through


def test_a_report_counts_what_was_stored_and_reviewed(service: Service) -> None:
    flawed = [detect(service, data={"lot": "L"})["id"] for _ in range(2)]
    detect(service, GOOD, data={"lot": "L"})
    detect(service, GOOD, data={"lot": "M"})
    for each in flawed:
        review(service, each)
    told = service.client.get("/reports?lot=L").json()
    counts = {name: told["counts"][name] for name in ("total", "ok", "not_ok", "confirmed")}
    assert counts == {"total": 3, "ok": 1, "not_ok": 2, "confirmed": 2}
    assert [(each["label"], each["count"]) for each in told["flaw_types"]] == [("burn", 2)]
    assert [(each["text"], set(each["inspection_ids"])) for each in told["causes"]] == [("hot iron", set(flawed))]
    assert "<svg" in service.client.get("/reports?format=html").text


def test_a_second_service_on_the_same_database_goes_on_where_the_first_is(folder: Path, postgres_url: str) -> None:
    with on(folder, postgres_url) as first, on(folder, postgres_url) as second:
        result = detect(first, query="?store=image", data={"lot": "L"})
        assert [each["id"] for each in found(second, "?lot=L")["inspections"]] == [result["id"]]
        assert second.client.get(f"/inspections/{result['id']}/image").content == BAD
        answered = asked(first, BAD, "job-8")
        replayed = asked(second, BAD, "job-8")
        assert replayed.content == answered.content
        assert replayed.headers["idempotent-replayed"] == "true"
        review(second, result["id"])
        assert first.client.get(f"/inspections/{result['id']}").json()["reviews"][0]["who"] == "Kim"
        wait_until(lambda: words_for(first, BAD)["similar"])  # it looks for others' reviews every other second
        assert words_for(first, BAD)["similar"][0]["inspection_id"] == result["id"]
    with on(folder, postgres_url) as third:  # all of it outlives those who wrote it
        assert {each["id"] for each in found(third)["inspections"]} == {
            result["id"],
            answered.json()["results"][0]["id"],
        }
        assert words_for(third, BAD)["similar"][0]["inspection_id"] == result["id"]

"""A candidate in shadow: a real process beside the service, which no answer waits for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import RecordsBusy, RecordsFailure
from tests.contract.serving import Service, running, wait_until
from tests.networks import grey_picture, png, write_bundle


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    """Version 2 sees twice as dark; version 1 is active."""
    write_bundle(tmp_path / "models", "probe", 1)
    write_bundle(tmp_path / "models", "probe", 2, gain=2.0)
    write_bundle(tmp_path / "models", "probe", 3)
    (tmp_path / "models" / "probe" / "active").write_text("1\n")
    return {"models_dir": tmp_path / "models", "records_dir": tmp_path / "records", "background_nice": 0}


@pytest.fixture
def service(place: dict[str, Any]) -> Iterator[Service]:
    with running(**place) as running_service:
        yield running_service


def detect(service: Service, level: int, **query: Any) -> dict[str, Any]:
    picture = grey_picture()
    picture[100:120, 100:120] = level
    response = service.client.post("/detect", params=query, files={"image": ("a.png", png(picture))})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["results"][0]
    return result


def shadow(service: Service) -> dict[str, Any]:
    told: dict[str, Any] = service.client.get("/models/probe/shadow").json()
    return told


def start(service: Service, version: int) -> Any:
    return service.client.post("/models/probe/shadow", json={"version": version})


def compared(service: Service, count: int) -> dict[str, Any]:
    wait_until(lambda: shadow(service)["compared"] >= count)
    return shadow(service)


def child(service: Service) -> Any:
    running_shadow = service.state.shadows._shadow
    assert running_shadow is not None
    return running_shadow._child


def test_a_candidate_from_start_to_activation(place: dict[str, Any]) -> None:
    with running(**place) as service:
        assert shadow(service)["state"] == "none"
        assert start(service, 2).status_code == 201
        assert start(service, 3).status_code == 409
        wait_until(lambda: shadow(service)["state"] == "running")
        same, other = detect(service, 10), None
        compared(service, 1)
        detect(service, 170, store="none")  # nobody could open it
        other = detect(service, 170)
        told = compared(service, 2)
        assert (told["active_version"], told["candidate_version"], told["precision"]) == (1, 2, "float32")
        assert (told["agreed"], told["dropped"], told["failed"]) == (1, 0, 0)
        assert {(each["active"], each["candidate"]): each["count"] for each in told["pairs"]} == {
            ("not_ok", "not_ok"): 1,
            (other["verdict"], "not_ok"): 1,
        }
        (differing,) = told["differing"]
        assert differing["inspection_id"] == other["id"]
        assert differing["candidate"]["score_over_reject"] == pytest.approx(
            2 * differing["active"]["score_over_reject"], rel=1e-3
        )
        assert [each["inspection_id"] for each in told["latest"]] == [other["id"], same["id"]]
        detect(service, 170, threshold=0.9)  # not the model's own verdict
        detect(service, 170, version=3)
        process = child(service)
    assert process.poll() is not None
    with running(**place) as service:  # a restart
        wait_until(lambda: shadow(service)["state"] == "running")
        detect(service, 10)
        assert compared(service, 3)["compared"] == 3
        assert 'flawscribe_shadow_images_total{model="probe",outcome="compared"} 1.0' in (
            service.client.get("/metrics").text
        )
        process = child(service)
        assert service.client.post("/models/probe/activate", json={"version": 2}).status_code == 200
        told = shadow(service)
        assert (told["state"], told["reason"], told["compared"]) == ("stopped", "version 2 was put in service", 3)
        assert process.poll() is not None
        assert service.client.delete("/models/probe/shadow").status_code == 409


def test_a_busy_candidate_drops_and_never_holds_an_answer_up(service: Service) -> None:
    start(service, 2)
    wait_until(lambda: shadow(service)["state"] == "running")
    process = child(service)
    os.kill(process.pid, signal.SIGSTOP)  # it does nothing at all any more
    try:
        for _ in range(6):
            detect(service, 170)
        assert shadow(service)["dropped"] >= 3
        assert shadow(service)["compared"] == 0
        assert 'outcome="dropped"' in service.client.get("/metrics").text
    finally:
        os.kill(process.pid, signal.SIGCONT)
    compared(service, 1)
    assert service.client.delete("/models/probe/shadow").json()["state"] == "stopped"


def test_a_candidate_that_dies_says_so_and_answers_go_on(service: Service) -> None:
    start(service, 2)
    wait_until(lambda: shadow(service)["state"] == "running")
    child(service).kill()
    detect(service, 170)
    wait_until(lambda: shadow(service)["reason"])
    assert "process ended (-9)" in shadow(service)["reason"]
    detect(service, 170)
    assert start(service, 3).status_code == 201  # another may begin


def test_what_cannot_run_in_shadow(service: Service) -> None:
    for version, status in ((1, 409), (9, 404)):
        assert start(service, version).status_code == status
    network = service.state.store.models_dir / "probe" / "2" / "model.onnx"
    network.write_bytes(network.read_bytes() + b"\0")
    start(service, 2)
    wait_until(lambda: shadow(service)["state"] == "stopped")
    wait_until(lambda: "model.onnx" in shadow(service)["reason"])
    assert service.client.post("/models/probe/shadow", json={"version": 2, "force": True}).status_code == 422


def test_a_stop_that_could_not_be_written_can_be_repeated(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(service, 2).status_code == 201
    assert service.state.records is not None
    kept = service.state.records.shadows
    stop = kept.stop

    def busy(*asked: Any) -> Any:
        raise RecordsBusy("many records wait to be written", retry_after=1)

    monkeypatch.setattr(type(kept), "stop", busy)
    assert service.client.delete("/models/probe/shadow").status_code == 503
    assert shadow(service)["state"] != "stopped"  # nor is it in the records: it would come back
    monkeypatch.setattr(type(kept), "stop", lambda self, *asked: stop(*asked))
    assert service.client.delete("/models/probe/shadow").status_code < 300
    assert shadow(service)["state"] == "stopped"
    assert kept.running() == ()


def test_a_version_comes_into_service_though_its_candidates_end_cannot_be_written(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert start(service, 2).status_code == 201
    assert service.state.records is not None

    def away(*_: Any) -> Any:
        raise RecordsFailure("the database is away")

    monkeypatch.setattr(type(service.state.records.shadows), "stop", away)
    assert service.client.post("/models/probe/activate", json={"version": 2}).status_code == 200
    assert "its record says that it runs" in caplog.text
    running_shadow = service.state.shadows._shadow
    assert running_shadow is not None
    assert running_shadow._child.poll() is not None  # it compared with a version that is gone


def test_a_run_beside_a_version_that_is_not_in_service_any_more_is_not_gone_on_with(place: dict[str, Any]) -> None:
    with running(**place) as service:
        assert start(service, 2).status_code == 201
    (place["models_dir"] / "probe" / "active").write_text("3\n")
    with running(**place) as service:
        assert service.state.records is not None
        assert service.state.records.shadows.running() == ()
        assert shadow(service)["state"] in ("none", "stopped")

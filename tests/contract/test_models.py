from __future__ import annotations

import base64
import concurrent.futures
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.access import SCOPES, create_key
from service.bundle.store import Store
from tests.contract.serving import Gate, Service, running, wait_until
from tests.networks import OPEN_GATE, grey_picture, png, write_bundle

FILES = {"image": ("a.png", png(grey_picture()))}


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Service]:
    """A service with two versions of a model, the second of which sees twice as dark; version 1 is active."""
    write_bundle(tmp_path, "probe", 1)
    write_bundle(tmp_path, "probe", 2, gain=2.0)
    (tmp_path / "probe" / "active").write_text("1\n")
    with running(tmp_path) as service:
        yield service


def answer(service: Service, **query: Any) -> dict[str, Any]:
    response = service.client.post("/detect", params=query, files=FILES)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def activate(service: Service, version: int) -> Any:
    return service.client.post("/models/probe/activate", json={"version": version})


def test_activation_swaps_the_version_that_answers(two: Service) -> None:
    first = answer(two)
    assert first["model"]["version"] == 1
    activated = activate(two, 2)
    assert activated.status_code == 200
    assert activated.json()["active_version"] == 2
    second = answer(two)
    assert second["model"]["version"] == 2
    assert second["results"][0]["anomaly_score"] == pytest.approx(2 * first["results"][0]["anomaly_score"], rel=1e-3)
    assert answer(two, version=1)["model"]["version"] == 1
    assert 'flawscribe_model_info{model="probe",precision="float32",provider="cpu",version="2"}' in (
        two.client.get("/metrics").text
    )


def test_a_sound_version_ends_what_a_damaged_one_began(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1)
    write_bundle(tmp_path, "other", 1)
    damaged = write_bundle(tmp_path, "probe", 2) / "model.onnx"
    damaged.write_bytes(damaged.read_bytes() + b"\0")
    (tmp_path / "probe" / "active").write_text("2\n")
    with running(tmp_path, ready=False, model="probe") as service:
        assert "model.onnx" in service.client.get("/readyz").json()["detail"]
        wait_until(lambda: service.state.lifecycle.wants_model)
        assert service.client.post("/models/other/activate", json={"version": 1}).status_code == 200
        assert service.client.get("/readyz").status_code == 503  # another model is not what was asked for
        assert activate(service, 1).status_code == 200
        assert service.client.get("/readyz").status_code == 200
        assert answer(service)["model"]["version"] == 1


def test_a_model_that_is_long_in_loading_holds_up_neither_deadlines_nor_others(
    two: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(two.state.store.models_dir, "slow", 1)
    entered, opened = threading.Semaphore(0), threading.Event()
    read = Store._read

    def held(*asked: Any) -> Any:
        entered.release()
        assert opened.wait(30)
        return read(*asked)

    monkeypatch.setattr(Store, "_read", held)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(httpx.post, f"{two.url}/detect?model=slow", files=FILES, timeout=60) for _ in range(8)]
        assert entered.acquire(timeout=20)
        body = {"images": [{"data": base64.b64encode(png(grey_picture())).decode()}]}
        assert two.client.post("/detect", json=body).status_code == 200  # its JSON is read in a thread
        late = two.client.post("/detect?model=slow", files=FILES, headers={"x-deadline-ms": "50"})
        assert late.status_code == 504
        soon = {"x-deadline-ms": "5000"}
        assert two.client.post("/detect?model=typo", files=FILES, headers=soon).status_code == 404
        assert two.client.post("/detect?model=slow&version=9", files=FILES, headers=soon).status_code == 404
        opened.set()
        assert {each.result().status_code for each in slow} == {200}
    assert not any(held.leases for held in two.state.store._loaded.values())


def test_a_refused_version_leaves_the_one_in_service(two: Service) -> None:
    network = two.state.store.models_dir / "probe" / "2" / "model.onnx"
    network.write_bytes(network.read_bytes() + b"\0")
    refused = activate(two, 2)
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert "model.onnx" in refused.json()["detail"]
    assert answer(two)["model"]["version"] == 1
    assert two.client.get("/models/probe").json()["active_version"] == 1


def test_a_request_that_is_running_ends_on_the_version_it_began_with(two: Service) -> None:
    gate = Gate(two.session)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running_request = pool.submit(answer, two)
        assert gate.entered.acquire(timeout=20)
        assert activate(two, 2).status_code == 200
        assert two.state.store.is_loaded("probe", 1)
        gate.restore()
        assert running_request.result()["model"]["version"] == 1
    wait_until(lambda: not two.state.store.is_loaded("probe", 1))


def test_a_broken_manifest_is_listed_with_its_fault(two: Service) -> None:
    (two.state.store.models_dir / "probe" / "2" / "manifest.json").write_text("{}")
    shown = two.client.get("/models/probe").json()
    assert [version["version"] for version in shown["versions"]] == [1]
    assert shown["refused"]["2"].startswith("probe/2: manifest.json")
    refused = activate(two, 2)
    assert (refused.status_code, str(two.state.store.models_dir) in refused.text) == (409, False)


def test_wrong_names_versions_and_parameters(two: Service) -> None:
    client = two.client
    assert activate(two, 7).status_code == 404
    assert client.post("/models/nothing/activate", json={"version": 1}).status_code == 404
    assert client.post("/models/probe/activate", json={"version": 1, "force": True}).status_code == 422
    assert client.post("/models/probe/activate", content=b"{").status_code == 400
    for odd in ({"version": True}, {"version": 1.0}, {"version": "1"}):
        for order in ("activate", "shadow"):
            assert client.post(f"/models/probe/{order}", json=odd).status_code == 422
    assert client.post("/models/probe/activate", content=b'{"version": 1, "version": 1}').status_code == 400
    assert client.post("/models/probe/activate", content=b" " * 2000).status_code == 413
    assert client.get("/models", params={"nmae": "probe"}).status_code == 422
    assert client.get("/models/nothing").status_code == 404


def test_a_versions_report_is_a_page_that_stands_alone(two: Service) -> None:
    (told, _) = two.client.get("/models/probe").json()["versions"]
    assert told["report"] == "/models/probe/versions/1/report"
    report = two.client.get(told["report"])
    assert (report.status_code, report.text) == (200, "<html></html>")
    assert report.headers["content-type"] == "text/html; charset=utf-8"
    for header in ("content-security-policy", "x-content-type-options"):
        assert report.headers[header] == two.client.get("/reports?format=html").headers[header]


def test_a_report_that_is_not_there_is_said_so(two: Service) -> None:
    folder = two.state.store.models_dir / "probe" / "2"
    document = json.loads((folder / "manifest.json").read_text())
    del document["files"]["report.html"]
    (folder / "manifest.json").write_text(json.dumps(document))
    (folder / "report.html").unlink()
    assert [each["report"] is None for each in two.client.get("/models/probe").json()["versions"]] == [False, True]
    for version, kind, words in ((2, "no-such-report", "without a report"), (7, "no-such-model", "there are: 1, 2")):
        refused = two.client.get(f"/models/probe/versions/{version}/report")
        assert (refused.status_code, refused.json()["type"]) == (404, f"/problems/{kind}")
        assert words in refused.json()["detail"]
    assert two.client.get("/models/nothing/versions/1/report").status_code == 404
    assert two.client.get("/models/..%2Fprobe/versions/1/report").status_code == 404
    assert two.client.get("/models/probe/versions/x/report").status_code == 422
    assert two.client.get("/models/probe/versions/1/report?x=1").status_code == 422


def test_who_may_see_the_models_may_read_what_they_learned(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    keys = tmp_path / "keys.json"
    secrets = {scope: create_key(keys, (scope,))[1] for scope in SCOPES}
    with running(tmp_path / "models", keys_file=keys) as service:
        for path in ("/models", "/models/probe", "/models/probe/versions/1/report"):
            assert service.client.get(path).status_code == 401
            for secret in secrets.values():
                assert service.client.get(path, headers={"x-api-key": secret}).status_code == 200


def test_one_of_several_models_must_be_named(tmp_path: Path) -> None:
    write_bundle(tmp_path, "left", 1)
    write_bundle(tmp_path, "right", 1)
    with running(tmp_path) as service:
        unnamed = service.client.post("/detect", files=FILES)
        assert unnamed.status_code == 404
        assert "left, right" in unnamed.json()["detail"]
        assert answer(service, model="right")["model"]["name"] == "right"


def test_an_extrapolated_threshold_is_labelled(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path, "probe", 1) / "manifest.json"
    document = json.loads(manifest.read_text())
    document["forms"]["float32"]["reject_rule"] = {"method": "fitted_tail", "false_reject_rate": 0.01, "parts": 9}
    manifest.write_text(json.dumps(document))
    with running(tmp_path) as service:
        assert answer(service)["results"][0]["threshold_method"] == "fitted_tail"
        assert answer(service, threshold=0.4)["results"][0]["threshold_method"] == "request"


def test_an_undecidable_picture_says_why_and_marks_nothing(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1, gate=OPEN_GATE.model_copy(update={"min_brightness": 100.0}))
    with running(tmp_path) as service:
        dark = {"image": ("a.png", png(grey_picture(level=10)))}
        response = service.client.post("/detect", params={"include": "regions,mask,overlay,map"}, files=dark)
        (result,) = response.json()["results"]
        assert (result["verdict"], result["is_anomalous"], result["regions"]) == ("undecidable", False, [])
        assert result["reasons"]
        assert result["anomaly_score"] > result["threshold"]

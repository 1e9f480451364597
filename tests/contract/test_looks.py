"""To look at a part again is not to inspect it: maps and overlays of what was recorded, over a real socket."""

from __future__ import annotations

import concurrent.futures
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.access import create_key
from tests.contract.serving import Gate, Service, running, wait_until
from tests.networks import grey_picture, png, write_bundle

PIXELS = grey_picture()
PIXELS[60:100, 120:160] = 0
BAD = png(PIXELS)
COUNTED = (
    "images_total",
    "anomaly_score_count",
    "stage_seconds_count",
    "image_seconds_count",
    "budget",
    "shadow_images",
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models", store="image") as made:
        yield made


def detect(service: Service, query: str = "", **options: Any) -> Any:
    answer = service.client.post(f"/detect{query}", **({"files": {"image": ("a.png", BAD)}} | options))
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def look(service: Service, inspection_id: str, what: str = "map", **headers: str) -> httpx.Response:
    return httpx.get(f"{service.url}/inspections/{inspection_id}/{what}", headers=headers, timeout=30)


def counted(service: Service) -> list[str]:
    """The series that tell of inspections."""
    lines = service.client.get("/metrics").text.splitlines()
    return [line for line in lines if not line.startswith("#") and any(name in line for name in COUNTED)]


def test_the_map_and_the_overlay_are_those_that_detect_delivered(service: Service) -> None:
    raw = {"content-type": "application/octet-stream", "x-image-shape": "224,224,3"}
    for sent in ({}, {"files": None, "content": PIXELS.tobytes(), "headers": raw}):
        for query in ("", "&threshold=0.2"):  # the request's own, below the model's review threshold
            result = detect(service, f"?include=map,overlay{query}", **sent)
            answer = look(service, result["id"])
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told.pop("model") == {"name": "probe", "version": 1, "precision": "float32", "provider": "cpu"}
            assert told == result["anomaly_map"]
            overlay = look(service, result["id"], "overlay")
            assert (overlay.status_code, overlay.headers["content-type"]) == (200, "image/png")
            assert overlay.headers["x-verdict"] == result["verdict"]
            drawn = service.client.post(
                f"/detect?counted=false{query}",
                files={"image": ("a.png", BAD)},
                headers={"accept": "image/png"},
            )
            assert hashlib.sha256(overlay.content).digest() == hashlib.sha256(drawn.content).digest()


def test_looks_count_nowhere_and_no_candidate_sees_them(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    write_bundle(tmp_path / "models", "probe", 2, gain=2.0)
    (tmp_path / "models" / "probe" / "active").write_text("1\n")
    with running(tmp_path / "models", store="image", background_nice=0) as service:

        def shadow() -> Any:
            return service.client.get("/models/probe/shadow").json()

        assert service.client.post("/models/probe/shadow", json={"version": 2}).status_code == 201
        wait_until(lambda: shadow()["state"] == "running")
        seen = detect(service)["id"]
        value = service.state.metrics.registry.get_sample_value
        outcome = {"model": "probe", "outcome": "compared"}
        wait_until(lambda: value("flawscribe_shadow_images_total", outcome) == 1)
        before = counted(service)
        assert any("images_total" in line and line.endswith(" 1.0") for line in before)
        for _ in range(3):
            assert [look(service, seen, what).status_code for what in ("map", "overlay")] == [200, 200]
            assert detect(service, "?counted=false")["stored"] is False
        assert counted(service) == before
        assert len(service.client.get("/inspections").json()["inspections"]) == 1
        # what comes after all looks is compared next: none of them was in between
        later = detect(service)["id"]
        wait_until(lambda: shadow()["compared"] >= 2)
        assert [each["inspection_id"] for each in shadow()["latest"]] == [later, seen]
        assert shadow()["dropped"] == 0


def test_what_is_looked_at_is_not_recorded(service: Service) -> None:
    files = {"image": ("a.png", BAD)}
    refused = service.client.post("/detect?counted=false&store=record", files=files)
    assert (refused.status_code, "counted=false" in refused.json()["detail"]) == (422, True)
    assert service.client.post("/classify?counted=false", files=files).status_code == 422
    assert detect(service, "?counted=false&store=none")["stored"] is False
    assert service.client.get("/inspections").json()["inspections"] == []


def test_what_cannot_be_looked_at_says_why(service: Service, tmp_path: Path) -> None:
    def refused(inspection_id: str, what: str) -> tuple[int, str, str]:
        answer = look(service, inspection_id, what)
        problem = answer.json()
        return answer.status_code, problem["type"].removeprefix("/problems/"), problem["detail"]

    bare, removed, old = (detect(service, f"?store={store}")["id"] for store in ("record", "image", "image"))
    write_bundle(tmp_path / "models", "probe", 2)
    assert service.client.post("/models/probe/activate", json={"version": 2}).status_code == 200
    shutil.rmtree(tmp_path / "models" / "probe" / "1")
    for what in ("map", "overlay"):
        assert refused("nothing", what) == (404, "no-such-record", "there is no inspection nothing")
        assert refused(bare, what) == (404, "no-such-record", f"the picture of inspection {bare} is not stored")
        assert refused(old, what) == (404, "no-such-model", "model 'probe' has no version 1; there are: 2")
        assert look(service, old, f"{what}?width=100").status_code == 422
    assert service.state.records is not None
    assert service.state.records.pictures.remove(hashlib.sha256(BAD).hexdigest(), grace_s=-1)  # as retention does
    assert refused(removed, "map")[:2] == (404, "no-such-record")


def test_another_form_of_the_version_says_so_and_keeps_its_own_thresholds(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1, int8_gain=0.5)
    place = {"models_dir": tmp_path / "models", "records_dir": tmp_path / "records", "provider": "cpu"}
    with running(**place, store="image", precision="int8") as service:
        result = detect(service, "?include=map&threshold=0.4")
        assert look(service, result["id"]).json()["scale"] == result["anomaly_map"]["scale"]
    with running(**place, precision="float32") as service:
        told = look(service, result["id"]).json()
        assert told["model"]["precision"] == "float32"
        assert told["scale"] == pytest.approx(2 * result["anomaly_map"]["scale"], rel=1e-3)
        drawn = service.client.post("/detect", files={"image": ("a.png", BAD)}, headers={"accept": "image/png"})
        assert look(service, result["id"], "overlay").content == drawn.content


def test_looks_wait_in_the_queue_as_all_others(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models", store="image", queue_windows=1) as service:
        seen = detect(service)["id"]
        gate = Gate(service.session)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            try:
                first = pool.submit(look, service, seen)
                assert gate.entered.acquire(timeout=20)
                crowded = look(service, seen)
                assert (crowded.status_code, int(crowded.headers["retry-after"]) >= 1) == (429, True)
            finally:
                gate.restore()
            assert first.result().status_code == 200
            gate = Gate(service.session)
            try:
                assert look(service, seen, **{"x-deadline-ms": "60"}).status_code == 504
            finally:
                gate.restore()
        assert look(service, seen, **{"x-deadline-ms": "soon"}).status_code == 422
        assert look(service, seen).status_code == 200


def test_who_may_look(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    keys = tmp_path / "keys.json"
    secret = {scope: create_key(keys, (scope,))[1] for scope in ("detect", "review")}  # type: ignore[arg-type]
    with running(tmp_path / "models", store="image", keys_file=keys) as service:
        seen = detect(service, headers={"x-api-key": secret["detect"]})["id"]
        may = {
            what: [look(service, seen, what, **{"x-api-key": key}).status_code for key in secret.values()]
            for what in ("map", "overlay", "image")
        }
        assert may == {"map": [200, 200], "overlay": [403, 200], "image": [403, 200]}  # these two show the picture
        assert [look(service, seen, what).status_code for what in may] == [401, 401, 401]

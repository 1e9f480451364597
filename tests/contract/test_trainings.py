"""Trainings over HTTP: real child processes, ended, killed, found again, and one that makes a model."""

from __future__ import annotations

import io
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api.access import create_key
from service.errors import BadRequest
from service.trainings import supervisor
from service.trainings.process import end, holder
from tests.contract.serving import Service, running, wait_until
from tests.networks import grey_picture, png, write_bundle


def parts(count: int, seed: int = 0) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    pictures = (rng.normal(120, 9, (100, 120, 3)).clip(0, 255).astype(np.uint8) for _ in range(count))
    return {f"good/{k:03}.png": png(picture) for k, picture in enumerate(pictures)}


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    """Settings of a service with a model `probe` 1 and a folder of pictures that may be named."""
    write_bundle(tmp_path / "models", "probe", 1)
    for name, data in parts(3).items():
        path = tmp_path / "photos" / "few" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {
        "models_dir": tmp_path / "models",
        "trainings_dir": tmp_path / "trainings",
        "training_data_dir": tmp_path / "photos",
        "background_nice": 0,  # at 19 it would wait for whatever else the machine does
        "background_cores": 2,
    }


@pytest.fixture
def service(place: dict[str, Any], no_orphan: None) -> Iterator[Service]:
    with running(**place) as running_service:
        yield running_service


def upload(service: Service, entries: dict[str, bytes], **options: Any) -> Any:
    form = {name: str(value) for name, value in options.items()}
    return service.client.post("/trainings", data=form, files={"pictures": ("good.zip", zipped(entries))})


def shown(service: Service, training_id: str) -> dict[str, Any]:
    response = service.client.get(f"/trainings/{training_id}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def ended(service: Service, training_id: str) -> dict[str, Any]:
    wait_until(lambda: shown(service, training_id)["state"] != "running", 900)
    return shown(service, training_id)


@pytest.fixture
def no_orphan(place: dict[str, Any]) -> Iterator[None]:
    """Ends what a test that failed has left running."""
    yield
    lock = place["trainings_dir"] / "lock"
    if (held := holder(lock)) is not None:
        end(lock, held)


@pytest.mark.slow
@pytest.mark.usefixtures("no_orphan")
def test_a_training_makes_a_version_that_a_person_puts_in_service(place: dict[str, Any]) -> None:
    """On the way: another is refused, the service is restarted, and the training is found again."""
    with running(**place) as service:
        started = upload(service, {**parts(12), "notes.txt": b"ring light"}, name="plate", steps=20, global_map="false")
        assert started.status_code == 201, started.text
        training = started.json()
        assert started.headers["location"] == f"/trainings/{training['id']}"
        assert (training["state"], training["left_out"], training["uploaded"]) == ("running", 1, True)
        second = upload(service, parts(12), name="other")
        assert second.status_code == 409
        assert training["id"] in second.json()["detail"]
        assert "flawscribe_training_running 1.0" in service.client.get("/metrics").text
    with running(**place) as service:
        assert shown(service, training["id"])["state"] == "running"
        done = ended(service, training["id"])
        assert done["state"] == "done", done["log_tail"]
        assert (done["version"], done["step"], done["steps"], done["phase"]) == (1, 20, 20, "done")
        assert len(done["curve"]) == 20
        assert done["scores"][-1][0] == 20
        assert [each["flawed"] for each in done["samples"]] == [False, True, False, True]
        heatmap = service.client.get(done["samples"][1]["url"])
        assert heatmap.headers["content-type"] == "image/jpeg"
        assert heatmap.content.startswith(b"\xff\xd8")
        assert service.client.get("/models/plate").json()["active_version"] is None
        files = {"image": ("a.png", parts(1, seed=9)["good/000.png"])}
        unnamed = service.client.post("/detect", params={"model": "plate"}, files=files)
        assert (unnamed.status_code, unnamed.json()["type"]) == (404, "/problems/no-such-model")
        assert "in service yet" in unnamed.json()["detail"]
        tried = service.client.post("/detect", params={"model": "plate", "version": 1}, files=files)
        assert tried.status_code == 200
        assert service.client.post("/models/plate/activate", json={"version": 1}).status_code == 200
        answer = service.client.post("/detect", params={"model": "plate"}, files=files)
        assert answer.json()["model"]["version"] == 1
        assert service.client.post(f"/trainings/{training['id']}/resume").status_code == 409
        # its process ends a little after it is done
        wait_until(lambda: "flawscribe_training_running 0.0" in service.client.get("/metrics").text)


def test_a_killed_training_says_so_and_is_resumed_cancelled_and_removed(service: Service) -> None:
    training_id = upload(service, parts(12), name="plate", steps=100_000).json()["id"]
    held = holder(service.state.trainings.place.folder / "lock")
    assert held is not None
    os.killpg(held.pid, signal.SIGKILL)
    died = ended(service, training_id)
    assert died["state"] == "interrupted"
    assert "killed" in died["error"]
    assert "flawscribe_training_failed 1.0" in service.client.get("/metrics").text
    resumed = service.client.post(f"/trainings/{training_id}/resume").json()
    assert (resumed["state"], resumed["error"]) == ("running", None)
    assert "flawscribe_training_failed 0.0" in service.client.get("/metrics").text
    assert service.client.delete(f"/trainings/{training_id}").status_code == 409
    cancelled = service.client.post(f"/trainings/{training_id}/cancel").json()
    assert cancelled["state"] == "cancelled"
    assert "flawscribe_training_failed 0.0" in service.client.get("/metrics").text  # a person's wish is no failure
    assert service.state.trainings.running() is None
    assert service.client.post(f"/trainings/{training_id}/cancel").status_code == 409
    assert "plate" not in {path.name for path in service.state.store.models_dir.iterdir()}
    listed = service.client.get("/trainings").json()
    assert [(each["id"], each["state"]) for each in listed["trainings"]] == [(training_id, "cancelled")]
    assert service.client.delete(f"/trainings/{training_id}").status_code == 204
    assert service.client.get(f"/trainings/{training_id}").status_code == 404
    assert not list(service.state.trainings.place.folder.glob("*plate*"))


def test_a_training_that_fails_says_why(service: Service) -> None:
    started = service.client.post("/trainings", json={"folder": "few", "name": "plate"})
    assert started.status_code == 201, started.text
    failed = ended(service, started.json()["id"])
    assert failed["state"] == "failed"
    assert "at least 10 are needed" in failed["error"]
    assert any("at least 10" in line for line in failed["log_tail"])
    assert "flawscribe_training_failed 1.0" in service.client.get("/metrics").text
    assert service.client.delete(f"/trainings/{failed['id']}").status_code == 204
    assert "flawscribe_training_failed 0.0" in service.client.get("/metrics").text


@pytest.mark.parametrize(
    ("order", "word"),
    [
        ({"name": "plate"}, "either a zip of pictures or `folder`"),
        ({"name": "Plate 1", "folder": "few"}, "name: "),
        ({"name": "teachers", "folder": "few"}, "folder of the teachers"),
        ({"name": "plate", "folder": "../photos/../models"}, "not a folder below"),
        ({"name": "plate", "folder": "/etc"}, "not a folder below"),
        ({"name": "plate", "folder": "nowhere"}, "not a folder below"),
        (
            {"name": "plate", "folder": "few", "teacher": "none"},
            "no teacher 'none'; there are: energies, pdn-medium, pdn-small",
        ),
        ({"name": "plate", "folder": "few", "group_by": "("}, "group_by: is not a regular expression"),
        ({"name": "plate", "folder": "few", "steps": 3}, "steps: "),
        ({"name": "plate", "folder": "few", "speed": 3}, "speed: "),
        ({"name": "plate", "folder": "few", "min_flaw_mm": 0.5}, "min_flaw_mm needs mm_per_pixel"),
    ],
)
def test_a_wrong_order_is_refused_with_its_reason(shared: Service, order: dict[str, Any], word: str) -> None:
    refused = shared.client.post("/trainings", json=order)
    assert refused.status_code == 422, refused.text
    assert word in refused.json()["detail"]
    assert shared.client.get("/trainings").json()["trainings"] == []


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that no test trains with."""
    folder = tmp_path_factory.mktemp("shared")
    write_bundle(folder / "models", "probe", 1)
    (folder / "photos" / "few").mkdir(parents=True)
    settings = {
        "trainings_dir": folder / "trainings",
        "training_data_dir": folder / "photos",
        "training_upload_mb": 0.5,
    }
    with running(folder / "models", **settings) as service:
        yield service


def test_a_wrong_upload_is_refused_and_leaves_nothing(shared: Service) -> None:
    client = shared.client
    for entries, status, word in (
        ({"../out.png": png(grey_picture())}, 400, "names must be short paths"),
        ({"notes.txt": b"no picture"}, 400, "holds no picture"),
        ({"a.png": np.random.default_rng(0).bytes(600_000)}, 413, "FLAWSCRIBE_TRAINING_UPLOAD_MB"),
    ):
        refused = upload(shared, entries, name="plate")
        assert (refused.status_code, word in refused.json()["detail"]) == (status, True), refused.text
    no_zip = client.post("/trainings", data={"name": "plate"}, files={"pictures": ("a.zip", b"PK")})
    assert (no_zip.status_code, no_zip.json()["type"]) == (400, "/problems/bad-request")
    no_file = client.post("/trainings", files={"name": (None, "plate")})
    assert "part named `pictures`" in no_file.json()["detail"]
    other_part = client.post("/trainings", data={"name": "plate"}, files={"zip": ("a.zip", b"PK")})
    assert "part named `pictures`, not 'zip'" in other_part.json()["detail"]
    assert upload(shared, parts(3), name="plate", folder="few").status_code == 422
    assert client.post("/trainings", content=b"PK", headers={"content-type": "application/zip"}).status_code == 415
    assert client.get("/trainings").json()["trainings"] == []
    assert list(shared.state.trainings.place.folder.iterdir()) == []


def test_while_one_is_being_started_another_is_refused_at_once(
    shared: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacking may take minutes, in which whoever waited would hold up all else that runs in threads."""
    unpacking, go_on = threading.Event(), threading.Event()

    def held(*asked: Any) -> Any:
        unpacking.set()
        assert go_on.wait(60)
        raise BadRequest("after all no zip")

    monkeypatch.setattr(supervisor, "unpack", held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(upload, shared, parts(3), name="plate")
        try:
            assert unpacking.wait(60)
            second = shared.client.post("/trainings", json={"name": "other", "folder": "few"})
            assert second.status_code == 409
            assert "another training is being started" in second.json()["detail"]
        finally:
            go_on.set()
        assert first.result().status_code == 400


def test_what_a_start_that_was_killed_left_is_removed_in_time(shared: Service) -> None:
    place = shared.state.trainings.place.folder
    left = [place / ".upload-20260101000000000000.zip", place / "20260101-000000-plate" / "pictures" / "1.png"]
    new = place / ".upload-20260102000000000000.zip"
    for file in (*left, new):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"a part of it")
    for path in (left[0], left[1].parents[1]):
        os.utime(path, (0, 0))
    assert upload(shared, {"notes.txt": b"no picture"}, name="plate").status_code == 400
    assert list(place.iterdir()) == [new]  # somebody's upload may be under way
    new.unlink()


@pytest.mark.parametrize("training_id", ["nothing", "20260101-000000-plate", "%2e%2e%2f20260101-000000-plate"])
def test_an_unknown_training(shared: Service, training_id: str) -> None:
    for method, path in (
        ("GET", ""),
        ("POST", "/cancel"),
        ("POST", "/resume"),
        ("DELETE", ""),
        ("GET", "/samples/1-0.jpg"),
    ):
        response = shared.client.request(method, f"/trainings/{training_id}{path}")
        assert response.status_code in (404, 405), response.text


def test_without_pytorch_it_says_how_to_install_it(shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "find_spec", lambda name: None)
    refused = upload(shared, parts(3), name="plate")
    assert (refused.status_code, refused.json()["type"]) == (501, "/problems/not-installed")
    assert "pip install 'flawscribe[train]'" in refused.json()["detail"]
    assert "flawscribe[train]" in shared.client.get("/trainings").json()["why_not"]


def test_only_admin_may_train(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    keys = tmp_path / "keys.json"
    _, reviewer = create_key(keys, ("detect", "review"))
    _, admin = create_key(keys, ("admin",))
    with running(tmp_path / "models", trainings_dir=tmp_path / "trainings", keys_file=keys) as service:
        for method, path in (("GET", ""), ("POST", ""), ("GET", "/x"), ("POST", "/x/cancel"), ("DELETE", "/x")):
            response = service.client.request(method, f"/trainings{path}", headers={"x-api-key": reviewer})
            assert response.status_code == 403, (method, path)
        assert service.client.get("/trainings", headers={"x-api-key": admin}).status_code == 200

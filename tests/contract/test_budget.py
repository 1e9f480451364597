"""Latency budgets: of each model its own, wherever one is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.serving import Service, running
from tests.networks import grey_picture, png, write_bundle
from tests.unit.bundle.editing import edit_manifest

TIMES = {("probe", 1): 5.0, ("probe", 2): 8.0, ("slow", 1): 40.0}  # ms a window, as measured at training


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for (name, version), milliseconds in TIMES.items():
        folder = write_bundle(tmp_path / "models", name, version)
        edit_manifest(
            folder, lambda document, ms=milliseconds: document["forms"]["float32"].update(network_ms_per_window=ms)
        )
    (tmp_path / "models" / "probe" / "active").write_text("1\n")
    return tmp_path / "models"


@pytest.fixture
def service(models: Path) -> Iterator[Service]:
    with running(models, model="probe", provider="cpu") as running_service:
        yield running_service


def answered(service: Service, accept: str = "application/json", **query: str | int) -> float:
    """The budget of a picture of one window in milliseconds, as the answer has it."""
    files = {"image": ("a.png", png(grey_picture()))}
    answer = service.client.post("/detect", params=query, files=files, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    return float(answer.headers["server-timing"].partition("budget;dur=")[2])


def measured(service: Service) -> dict[str, float]:
    """The series flawscribe_budget_seconds, in milliseconds."""
    found = re.findall(r'^flawscribe_budget_seconds\{model="(.+)"\} (\S+)$', service.client.get("/metrics").text, re.M)
    return {model: 1000 * float(seconds) for model, seconds in found}


def figure(service: Service, name: str, **query: int) -> float:
    told = service.client.get(f"/models/{name}/latency", params=query).json()
    return float(told["budget_ms_per_window"])


def test_every_model_and_version_has_its_own(service: Service) -> None:
    assert measured(service) == pytest.approx({"probe": 6.25})  # known from the start
    assert answered(service) == pytest.approx(6.25)
    assert answered(service, "image/png") == pytest.approx(6.25)
    assert answered(service, model="slow") == pytest.approx(50)
    assert measured(service) == pytest.approx({"probe": 6.25, "slow": 50})
    assert [figure(service, "probe"), figure(service, "slow")] == pytest.approx([6.25, 50])
    assert figure(service, "probe", version=2) == pytest.approx(10)  # which is not loaded
    assert service.client.post("/models/probe/activate", json={"version": 2}).status_code == 200
    assert measured(service)["probe"] == pytest.approx(10)
    assert answered(service) == pytest.approx(10)
    assert figure(service, "probe") == pytest.approx(10)


def test_words_are_asked_for_within_the_same_budget(service: Service) -> None:
    files = {"image": ("a.png", png(grey_picture()))}
    answer = service.client.post("/classify", params={"model": "slow"}, files=files)
    assert answer.headers["server-timing"].endswith("budget;dur=50.00")


def test_on_cuda_it_is_two_milliseconds(service: Service) -> None:
    service.session.provider = "cuda"
    assert answered(service) == pytest.approx(2)
    assert measured(service)["probe"] == pytest.approx(2)
    assert figure(service, "probe") == pytest.approx(2)


def test_one_that_is_set_holds_for_all(models: Path) -> None:
    with running(models, model="probe", provider="cpu", budget_ms=30) as service:
        assert measured(service) == pytest.approx({"probe": 30})
        assert [answered(service), answered(service, model="slow")] == pytest.approx([30, 30])
        assert figure(service, "probe", version=2) == pytest.approx(30)


def test_the_series_of_times_lie_around_the_default_model_s(models: Path) -> None:
    for budget_ms, expected in ((None, 6.25), (30.0, 30.0)):
        with running(models, model="probe", provider="cpu", budget_ms=budget_ms) as service:
            answered(service)
            text = service.client.get("/metrics").text
        ends = re.findall(r'^flawscribe_image_seconds_bucket\{le="([\d.e-]+)",model="probe"\}', text, re.M)
        assert any(1000 * float(end) == pytest.approx(expected) for end in ends)

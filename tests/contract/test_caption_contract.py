"""The contract of captions over many flaws, generated and real: each in words that are true to the map, whoever speaks."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.api.schemas import ClassifyAnswer
from service.captions.guard import CircuitBreaker
from service.samples import KINDS, flaw_types, render
from service.training.flaws import paint_flaw
from tests.contract.serving import Service, running
from tests.contract.test_llm_faults import FAULTS
from tests.llm_server import LlmServer, answer_json, completion
from tests.networks import grey_picture, png, write_bundle

ROWS, COLUMNS = ("upper", "", "lower"), ("left", "centre", "right")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The darkness network at a threshold that most dark flaws pass."""
    folder = tmp_path_factory.mktemp("captions")
    write_bundle(folder / "models", "probe", 1, working_size=224, review=0.55, reject=0.65)
    with running(folder / "models") as made:
        for number in range(6):  # what past flaws can be cited
            picture = grey_picture(180, 240)
            picture[20 + 9 * number : 60 + 9 * number, 30 : 60 + 20 * (number % 2)] = 10
            seen = made.client.post("/classify", files={"image": ("a.png", png(picture))}).json()["results"][0]
            said = {"verdict": "right", "label": ("stain", "burn")[number % 2], "cause": "hot iron", "who": "Kim"}
            made.client.post(f"/inspections/{seen['id']}/review", json=said).raise_for_status()
        yield made


def expected_place(region: dict[str, Any], width: int, height: int) -> str:
    x, y = region["centroid"]
    row, column = ROWS[min(2, int(3 * y / height))], COLUMNS[min(2, int(3 * x / width))]
    if row and column == "centre":
        return f"{row} centre"
    return f"{row} {column}".strip()


def check(service: Service, pictures: list[np.ndarray]) -> int:
    """Every answer keeps the contract; returns how many regions were seen."""
    regions = right = 0
    cited: set[str] = set()
    for picture in pictures:
        answer = service.client.post("/classify?store=none", files={"image": ("a.png", png(picture))})
        assert answer.status_code == 200
        told = ClassifyAnswer.model_validate_json(answer.content).model_dump()["results"][0]
        assert (told["classification"]["description"] == "This is normal") == (not told["regions"])
        assert (told["verdict"] == "ok") == (not told["regions"])
        for words in (told["classification"], *(region["classification"] for region in told["regions"])):
            assert 0 < len(words["description"].split()) <= 10
            cited |= {case["inspection_id"] for case in words["similar"]}
        for region in told["regions"]:
            regions += 1
            place = expected_place(region, picture.shape[1], picture.shape[0])
            right += region["classification"]["attributes"]["location"] == place
    assert right >= 0.98 * regions
    assert cited
    assert all(service.client.get(f"/inspections/{each}").status_code == 200 for each in cited)
    return regions


def test_two_hundred_generated_flaws(service: Service) -> None:
    kinds = [(kind, flaw) for kind in KINDS for flaw in flaw_types(kind)]
    pictures = []
    for index in range(200):
        kind, flaw = kinds[index % len(kinds)]
        if index < len(kinds):
            image = Image.fromarray(render(kind, np.random.default_rng(index), flaw).image)
            pictures.append(np.asarray(image.resize((320, 320 * image.height // image.width))))
        else:  # drawing a part takes a while; a flaw on a plain ground does not
            rng = np.random.default_rng(index)
            pictures.append(paint_flaw(grey_picture(180, 240, int(rng.integers(120, 220))), rng)[0])
    assert check(service, pictures) > 40


@pytest.mark.datasets
def test_two_hundred_real_flaws(service: Service, datasets: Path) -> None:
    files = [path for path in sorted(datasets.glob("magnetic_tile/MT_*/**/*.jpg")) if "MT_Free" not in str(path)]
    files += sorted(datasets.glob("bottle/test/broken_large/*"))
    step = len(files) / 200
    pictures = [
        np.asarray(Image.open(io.BytesIO(files[int(index * step)].read_bytes())).convert("RGB")) for index in range(200)
    ]
    assert check(service, pictures) > 100


@pytest.fixture(scope="module")
def llm() -> Iterator[LlmServer]:
    with LlmServer() as server:
        yield server


@pytest.fixture(scope="module")
def talking(llm: LlmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("talking")
    write_bundle(folder / "models", "probe", 1)
    (folder / "probe.yaml").write_text("{product: probe, name: plate, may_leave: true}")
    options = {"llm_base_url": llm.base_url, "llm_model": "vision", "llm_deadline_s": 1.0}
    with running(folder / "models", products_dir=folder, **options) as made:
        yield made


DARK = grey_picture()
DARK[30:80, 140:200] = 0


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_of_the_llm_costs_the_answer(talking: Service, llm: LlmServer, name: str) -> None:
    reply, reason = FAULTS[name]
    assert talking.state.llm is not None
    talking.state.llm.breaker = CircuitBreaker(5, 30.0, time.monotonic)  # the faults before have opened it
    llm.script(reply)
    started = time.monotonic()
    answer = talking.client.post("/classify", files={"image": ("a.png", png(DARK))})
    assert time.monotonic() - started <= 1.0 + 0.25 + 0.75  # the LLM's deadline, the grace, and the detection itself
    assert answer.status_code == 200
    words = answer.json()["results"][0]["regions"][0]["classification"]
    assert (words["source"], words["degraded"], words["fallback_reason"]) == ("rules", True, reason.value)
    assert words["description"]


def test_after_all_faults_it_still_speaks(talking: Service, llm: LlmServer) -> None:
    assert talking.state.llm is not None
    talking.state.llm.breaker = CircuitBreaker(5, 30.0, time.monotonic)  # the faults before have opened it
    llm.script(completion(answer_json(regions=1)))
    words = talking.client.post("/classify", files={"image": ("b.png", png(DARK))}).json()["results"][0]
    assert words["classification"]["source"] == "llm"

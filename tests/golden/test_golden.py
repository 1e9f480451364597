"""One score, three ways: torch, ONNX Runtime, and served over HTTP agree on real pictures; so does every rung of the ladder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle.manifest import Form, Golden, Manifest
from service.bundle.store import Bundle, EngineOptions, load_bundle
from service.bundle.verify import digest, manifest_text
from service.decision.scale import picture_map
from service.engine.session import open_session
from service.image.decode import decode
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.training.export import measure_parity, round_to_half, store_as_half, to_onnx
from service.training.network import Autoencoder, Detector, Pdn
from service.training.select import run_torch
from tests.contract.serving import Service, running
from tests.networks import write_bundle

RECIPE = PrepareRecipe(rule="scale", value=0.42)
MIN_FLAW = 6.0


@dataclass(frozen=True)
class Three:
    detector: Detector
    bundle: Bundle
    service: Service


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """An untrained detector whose maps have the spread of a trained one's, as torch, bundle and service."""
    torch.manual_seed(3)
    detector = Detector(Pdn("small"), Pdn("small", 768), Autoencoder()).eval()
    with torch.no_grad():
        detector.directions = torch.linalg.qr(torch.randn(384, 32)).Q.T.contiguous() * 3
        sample = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
        raw = run_torch(detector, sample)
        assert raw.logical is not None
        for index, part in enumerate((raw.structural, raw.logical)):
            detector.q_a[index], detector.q_b[index] = float(part.min()), float(part.max())
    round_to_half(detector, whitened=False)
    folder = tmp_path_factory.mktemp("golden")
    target = write_bundle(folder, "probe", 1, global_map=True)
    data = store_as_half(to_onnx(detector))
    (target / "model.onnx").write_bytes(data)
    manifest = Manifest.model_validate_json((target / "manifest.json").read_bytes())
    files = {name: (target / name).read_bytes() for name in manifest.files}
    form: Form = manifest.forms["float32"]
    shown = decode((target / "golden" / "0.png").read_bytes(), 10**8)
    plan = plan_tiles(shown.shape[1], shown.shape[0], RECIPE, global_map=True)
    session = open_session(data, form="float32", provider="cpu")
    score = picture_map(session.run(prepare(shown, plan)), plan, MIN_FLAW).score
    changed = manifest.model_copy(
        update={
            "files": digest(files),
            "prepare": RECIPE,
            "min_flaw_px": MIN_FLAW,
            "golden": (Golden(file="golden/0.png", scores={"float32": score}),),
            "forms": {"float32": form},
        }
    )
    (target / "manifest.json").write_text(manifest_text(changed))
    with running(folder) as service:
        yield Three(detector, load_bundle(target, EngineOptions(provider="cpu")), service)


def torch_score(detector: Detector, rgb: np.ndarray) -> float:
    plan = plan_tiles(rgb.shape[1], rgb.shape[0], RECIPE, global_map=True)
    return picture_map(run_torch(detector, prepare(rgb, plan)), plan, MIN_FLAW).score


def real_pictures(datasets: Path, count: int) -> list[Path]:
    found = [
        path
        for pattern in (
            "magnetic_tile/MT_*/**/*.jpg",
            "bottle/test/*/*.*",
            "casting/test/*/*.*",
            "cookies/test/*/*.*",
            "aliens/test/*/*.*",
        )
        for path in sorted(datasets.glob(pattern))[:: max(1, len(sorted(datasets.glob(pattern))) // (count // 5))][
            : count // 5
        ]
    ]
    return found[:count]


@pytest.mark.datasets
@pytest.mark.slow
def test_torch_onnx_and_served_scores_agree_on_real_pictures(three: Three, datasets: Path) -> None:
    pictures = real_pictures(datasets, 50)
    assert len(pictures) >= 45
    scores = []
    for path in pictures:
        data = path.read_bytes()
        rgb = decode(data, 10**8)
        answer = three.service.client.post("/detect", content=data, headers={"content-type": _type(path)})
        served = answer.json()["results"][0]["anomaly_score"]
        scores.append((torch_score(three.detector, rgb), three.bundle.anomaly_map(rgb).score, served))
    expected, onnx, served_scores = np.array(scores).T
    assert expected.std() > 0.01
    unit = np.maximum(np.abs(expected), 0.1)  # the scale's unit, for scores near zero
    assert (np.abs(onnx - expected) / unit).max() < 1e-3
    assert (np.abs(served_scores - expected) / unit).max() < 1e-3
    apart = expected[:, None] - expected[None, :] > 2e-3 * unit[:, None]
    assert (onnx[:, None] > onnx[None, :])[apart].all()


def _type(path: Path) -> str:
    return "image/png" if path.suffix == ".png" else "image/jpeg"


def test_every_rung_gives_the_same_order(three: Three) -> None:
    windows = np.random.default_rng(1).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    windows[1:3] //= 2
    data = three.bundle.folder / "model.onnx"
    answers = []
    for rung in (1, 2, 3, 4):
        session = open_session(data.read_bytes(), form="float32", provider="cpu", ladder=(rung,))
        answers.append(session.run(windows).structural.max(axis=(1, 2)))
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-3)
        np.testing.assert_array_equal(np.argsort(answer), np.argsort(answers[0]))


def test_weights_stored_as_half_change_nothing(three: Three) -> None:
    windows = np.random.default_rng(2).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    parity = measure_parity(three.detector, three.bundle.session, windows, (1, 3))
    assert parity.max_relative_score_error < 1e-3
    assert (three.bundle.folder / "model.onnx").stat().st_size < 17_000_000


def test_windows_of_the_real_network_equal_one_fully_convolutional_pass(three: Three) -> None:
    """The teacher over the whole canvas, against its windows laid side by side."""
    from service.image.prepare import with_context
    from service.training.network import normalise

    rgb = np.random.default_rng(4).integers(0, 256, (300, 460, 3), dtype=np.uint8)
    plan = plan_tiles(460, 300, PrepareRecipe(rule="scale", value=1.0), global_map=False)
    with torch.no_grad():
        whole = three.detector.teacher(normalise(torch.from_numpy(with_context(rgb)[None])))[
            0, :, : plan.rows, : plan.columns
        ]
        parts = three.detector.teacher(normalise(torch.from_numpy(prepare(rgb, plan))))
    rows, columns = plan.tiles[-1].row + 1, plan.tiles[-1].column + 1
    grid = parts.reshape(rows, columns, -1, 56, 56).permute(2, 0, 3, 1, 4).reshape(-1, rows * 56, columns * 56)
    torch.testing.assert_close(grid[:, : plan.rows, : plan.columns], whole, rtol=1e-4, atol=1e-5)

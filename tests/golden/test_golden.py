"""One score, three ways: torch, ONNX Runtime, and served over HTTP agree on real pictures; so does every rung of the ladder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from service.samples import KINDS, flaw_types, render
from service.training.directions import discriminant
from service.training.export import measure_parity, round_to_half, store_as_half, to_onnx
from service.training.features import FeatureBank
from service.training.network import Detector
from service.training.penalty import PenaltyImages
from service.training.recipes import recipe_named
from service.training.select import Selection, run_torch
from service.training.teacher import load_teacher
from service.training.train import Trainer
from service.types import LocalScale
from tests.conftest import DATASETS
from tests.contract.serving import Service, running
from tests.networks import png, write_bundle

RECIPE = PrepareRecipe(rule="scale", value=0.42)
MIN_FLAW = 6.0
STEPS = 20


@dataclass(frozen=True)
class Three:
    detector: Detector
    border: LocalScale
    losses: list[float]
    bundle: Bundle
    service: Service

    def torch_score(self, rgb: np.ndarray) -> float:
        plan = plan_tiles(rgb.shape[1], rgb.shape[0], RECIPE, global_map=True)
        return picture_map(run_torch(self.detector, prepare(rgb, plan)), plan, MIN_FLAW, None, self.border).score


def fabric(seed: int, flaw: str | None = None) -> np.ndarray:
    """A part in one window."""
    return render("polka-dot", np.random.default_rng(seed), flaw).image[120:600, 300:780]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Three]:
    """A detector as a training makes it, though of few steps, as torch, bundle and service."""
    folder = tmp_path_factory.mktemp("golden")
    teacher = load_teacher("pdn-small", root / "models" / "teachers")
    pictures = [fabric(seed) for seed in range(4)]
    selection = Selection([fabric(4)], RECIPE, global_map=True, min_flaw_px=MIN_FLAW, flaws_each=3)
    recipe = replace(recipe_named("default", 4), steps=STEPS, batch=1, warm_up=2)
    bank = FeatureBank(pictures, RECIPE, teacher.network)
    trainer = Trainer(teacher.network, bank, PenaltyImages(None), selection, recipe, global_map=True)
    detector = trainer.run(folder / "checkpoint.pt")
    round_to_half(detector, whitened=False)
    detector.directions = discriminant(detector, selection.examples, 64)
    selection.score(detector)  # sets the quantiles, for the rounded weights
    target = write_bundle(folder, "probe", 1, global_map=True)
    data = store_as_half(to_onnx(detector))
    (target / "model.onnx").write_bytes(data)
    manifest = Manifest.model_validate_json((target / "manifest.json").read_bytes())
    files = {name: (target / name).read_bytes() for name in manifest.files}
    form: Form = manifest.forms["float32"]
    shown = decode((target / "golden" / "0.png").read_bytes(), 10**8)
    plan = plan_tiles(shown.shape[1], shown.shape[0], RECIPE, global_map=True)
    session = open_session(data, form="float32", provider="cpu")
    score = picture_map(session.run(prepare(shown, plan)), plan, MIN_FLAW, None, selection.local).score
    changed = manifest.model_copy(
        update={
            "files": digest(files),
            "prepare": RECIPE,
            "border": selection.local,
            "min_flaw_px": MIN_FLAW,
            "golden": (Golden(file="golden/0.png", scores={"float32": score}),),
            "forms": {"float32": form},
        }
    )
    (target / "manifest.json").write_text(manifest_text(changed))
    losses = [loss for _, loss in trainer.history.losses]
    with running(folder) as service:
        bundle = load_bundle(target, EngineOptions(provider="cpu"))
        yield Three(detector, selection.local, losses, bundle, service)


def test_the_network_has_learned(three: Three) -> None:
    assert np.mean(three.losses[-4:]) < 0.75 * np.mean(three.losses[:4])
    assert three.torch_score(fabric(23, "black_thread")) > three.torch_score(fabric(23))


def real_pictures(count: int) -> list[tuple[str, bytes]]:
    """`count` files, each with its content type: a fifth of every real image set."""
    share = count // 5
    found = []
    for pattern in (
        "magnetic_tile/MT_*/**/*.jpg",
        "bottle/test/*/*.*",
        "casting/test/*/*.*",
        "cookies/test/*/*.*",
        "aliens/test/*/*.*",
    ):
        paths = sorted(DATASETS.glob(pattern))
        found += paths[:: max(1, len(paths) // share)][:share]
    return [("image/png" if path.suffix == ".png" else "image/jpeg", path.read_bytes()) for path in found]


def sample_pictures(count: int) -> list[tuple[str, bytes]]:
    """The same of generated parts, a quarter of them good: for where the real sets are not beside the checkout."""
    made = []
    for seed in range(count):
        kind = KINDS[seed % len(KINDS)]
        flaws = flaw_types(kind)
        flaw = flaws[seed // 4 % len(flaws)] if seed % 4 else None
        made.append(("image/png", png(render(kind, np.random.default_rng(seed), flaw).image[:480, :480])))
    return made


@pytest.mark.slow
def test_torch_onnx_and_served_scores_agree_on_real_pictures(three: Three) -> None:
    pictures = real_pictures(50) if DATASETS.is_dir() else sample_pictures(50)
    assert len(pictures) == 50
    scores = []
    for content_type, data in pictures:
        rgb = decode(data, 10**8)
        answer = three.service.client.post("/detect", content=data, headers={"content-type": content_type})
        served = answer.json()["results"][0]["anomaly_score"]
        scores.append((three.torch_score(rgb), three.bundle.anomaly_map(rgb).score, served))
    expected, onnx, served_scores = np.array(scores).T
    assert expected.std() > 0.01
    unit = np.maximum(np.abs(expected), 0.1)  # the scale's unit, for scores near zero
    assert (np.abs(onnx - expected) / unit).max() < 1e-3
    assert (np.abs(served_scores - expected) / unit).max() < 1e-3
    apart = expected[:, None] - expected[None, :] > 2e-3 * unit[:, None]
    assert (onnx[:, None] > onnx[None, :])[apart].all()


def test_every_rung_gives_the_same_order(three: Three) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    noise[1:] //= 2
    parts = [fabric(seed, flaw) for seed, flaw in enumerate((None, *flaw_types("polka-dot")[:2]), 30)]
    windows = np.concatenate([noise, *(prepare(part, three.bundle.plan(480, 480)) for part in parts)])
    data = three.bundle.folder / "model.onnx"
    answers = []
    for rung in (1, 2, 3, 4):
        session = open_session(data.read_bytes(), form="float32", provider="cpu", ladder=(rung,))
        maps = session.run(windows)
        answers.append([each.max(axis=(1, 2)) for each in (maps.structural, maps.logical)])
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

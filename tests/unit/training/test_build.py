"""A folder of pictures to a bundle and through every command that takes one, with a training of four steps."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from service.bundle.store import EngineOptions, load_bundle
from service.bundle.verify import verify
from service.errors import BadRequest
from service.image.decode import decode
from service.image.prepare import PrepareRecipe
from service.training import logical
from service.training.build import build
from service.training.data import NormalImage, load_pictures, split_folder
from service.training.export import store_as_half, to_onnx
from service.training.network import Detector
from service.training.product import _mask, _require_cells
from service.training.recipes import recipe_named
from service.training.runs import BuildSettings, remembered
from service.training.select import Selection
from service.training.teacher import import_teacher
from service.training.train import Trainer
from tests.contract.serving import running
from tests.unit.training.test_teacher import published_sequential

pytestmark = pytest.mark.slow


def part(seed: int, flaw: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:150, :200]
    picture = 120 + 40 * np.sin(x / 6) * np.sin(y / 6) + rng.normal(0, 6, (150, 200))
    if flaw:
        picture[60:90, 80:120] = 10
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in MVTec AD's layout."""
    folder = tmp_path_factory.mktemp("set")
    for place, count, flaw in (("train/good", 12, False), ("test/good", 3, False), ("test/hole", 3, True)):
        (folder / place).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(part(len(place) * 100 + k, flaw)).save(folder / place / f"{k:03}.png")
    (folder / "ground_truth" / "hole").mkdir(parents=True)
    mask = np.zeros((150, 200), np.uint8)
    mask[60:90, 80:120] = 255
    for k in range(3):
        Image.fromarray(mask).save(folder / "ground_truth" / "hole" / f"{k:03}_mask.png")
    Image.fromarray(np.pad(np.full((130, 180), 255, np.uint8), 10)).save(folder / "roi.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def hopeful() -> Iterator[None]:
    """An autoencoder stays in the network, though a few steps teach it nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logical, "LEAST", -99)
        yield


@pytest.fixture(scope="module")
def settings(data: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildSettings:
    folder = tmp_path_factory.mktemp("build")
    return BuildSettings(
        data=data,
        name="plate",
        models_dir=folder / "models",
        runs_dir=folder / "runs",
        teachers_dir=root / "models" / "teachers",
        steps=4,
        working_size=200,
        roi=data / "roi.png",
        mm_per_pixel=0.5,
    )


@pytest.fixture
def float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster forms, most of a build's work, are left out: `bundle_dir` has them."""
    monkeypatch.setattr(
        "service.training.build.export_forms", lambda detector, *_, **__: {"float32": store_as_half(to_onnx(detector))}
    )


@dataclass(frozen=True)
class Built:
    """A build's bundle, the pictures that painted flaws were judged on, and the addresses that were asked for."""

    folder: Path
    judged_on: list[np.ndarray]
    reached: list[object]


@pytest.fixture(scope="module")
def built(settings: BuildSettings) -> Built:
    said: list[str] = []
    judged_on: list[np.ndarray] = []
    reached: list[object] = []

    class Spied(Selection):
        def __init__(self, pictures: Sequence[np.ndarray], *arguments: Any, **options: Any) -> None:
            judged_on.extend(pictures)
            super().__init__(pictures, *arguments, **options)

    def refuse(*asked: object, **_: object) -> Any:
        reached.append(asked)
        raise OSError("there is no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.training.build.Selection", Spied)
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        folder = build(settings, said.append)
    assert any("12 images" in line or "thresholds will be extrapolated" in line for line in said)
    return Built(folder, judged_on, reached)


@pytest.fixture(scope="module")
def bundle_dir(built: Built) -> Path:
    return built.folder


def test_a_training_asks_for_nothing_from_elsewhere(built: Built) -> None:
    assert built.reached == []


def test_quantiles_and_the_best_step_come_from_parts_held_out_for_them(built: Built, settings: BuildSettings) -> None:
    splits = split_folder(settings.data)
    judged_on = {picture.tobytes() for picture in built.judged_on}
    assert judged_on == {picture.tobytes() for picture in load_pictures(splits.validation)}
    assert not judged_on & {picture.tobytes() for picture in load_pictures((*splits.train, *splits.calibration))}


def test_the_bundle_keeps_its_promises(bundle_dir: Path) -> None:
    assert (bundle_dir.parent.name, bundle_dir.name) == ("plate", "1")
    manifest = verify(bundle_dir).manifest
    assert manifest.data["images"] == {"train": 7, "validation": 2, "calibration": 3}
    assert manifest.forms["float32"].parity.max_relative_score_error < 1e-3
    assert manifest.forms["float32"].parity.batches == (1, 3)
    assert len(manifest.forms["float32"].calibration_scores) == 3
    assert manifest.forms["float32"].reject_rule.method == "fitted_tail"
    assert manifest.roi
    installed = {each.metadata["Name"].lower() for each in distributions()}
    scored_by = {"torch", "numpy", "pillow", "openvino", "onnxruntime", "onnxruntime-gpu"}
    assert set(manifest.libraries) == scored_by & installed
    assert (manifest.training["penalty"], manifest.training["group_by"]) == ("none", None)
    for name in ("model.onnx", "model.int8.onnx"):
        if (bundle_dir / name).exists():  # the int8 form is kept only when it is as good
            data = (bundle_dir / name).read_bytes()
            assert b"stack_trace" not in data
            assert str(Path(__file__).parents[3]).encode() not in data
    assert sum(path.stat().st_size for path in bundle_dir.rglob("*") if path.is_file()) < 30_000_000


def test_calibration_scores_are_those_that_the_served_path_gives(bundle_dir: Path, settings: BuildSettings) -> None:
    pictures = load_pictures(split_folder(settings.data).calibration)
    for name in verify(bundle_dir).manifest.forms:
        bundle = load_bundle(bundle_dir, EngineOptions(precision=name))
        scores = sorted(bundle.anomaly_map(picture).score for picture in pictures)
        np.testing.assert_allclose(scores, bundle.form.calibration_scores, rtol=1e-4)


def test_it_is_served(bundle_dir: Path, data: Path) -> None:
    with running(bundle_dir.parents[1]) as service:
        good = (data / "test" / "good" / "000.png").read_bytes()
        result = service.client.post("/detect", files={"image": ("a.png", good)}).json()["results"][0]
    assert result["threshold_method"] == "fitted_tail"
    assert result["verdict"] in ("ok", "review", "not_ok")


def test_the_report_stands_alone(bundle_dir: Path) -> None:
    page = (bundle_dir / "report.html").read_text()
    forms = verify(bundle_dir).manifest.forms
    fastest = next(name for name in ("int8-openvino", "bf16", "int8", "float32") if name in forms)
    plot = page.partition(f"<h2>Scores of good parts that set the thresholds, {fastest}</h2>")[2].partition("</svg>")[0]
    assert f"review {forms[fastest].review_threshold:.3f}" in plot
    assert f"reject {forms[fastest].reject_threshold:.3f}" in plot
    curve = page.partition("<h2>Training</h2>")[2].partition("</svg>")[0]
    assert curve.partition('points="')[2].partition('"')[0].count(",") == 4  # one a step
    assert "<title>step 4: " in curve
    suspects = page.partition("<h2>Training pictures that look least normal</h2>")[2]
    assert suspects.count("<figcaption>train/good/") == 9  # all there are
    assert page.count("data:image/jpeg;base64,") == 4 + 9
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_check_score_and_evaluate_take_it(bundle_dir: Path, data: Path, tmp_path: Path) -> None:
    checked = run("check", bundle_dir)
    assert checked.returncode == 0, checked.stderr
    assert "form float32: meets" in checked.stdout
    broken = data / "test" / "hole" / "zz.png"
    broken.write_bytes(b"junk")
    scored = run("score", data / "test", "--bundle", bundle_dir, "--out", tmp_path / "o", "--overlays")
    broken.unlink()
    assert scored.returncode == 0, scored.stderr
    with (tmp_path / "o" / "scores.csv").open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 7
    assert rows["hole/zz.png"]["error"]
    assert float(rows["hole/000.png"]["anomaly_score"]) > 0
    assert len(list((tmp_path / "o" / "overlays").rglob("*.png"))) == 6
    evaluated = run("evaluate", bundle_dir, data, "--json", tmp_path / "e.json", "--html", tmp_path / "e.html")
    assert evaluated.returncode == 0, evaluated.stderr
    figures = json.loads((tmp_path / "e.json").read_text())
    assert figures["images"] == 6
    assert set(figures["by_defect"]) == {"hole"}
    assert 0 <= figures["escape"]["low"] <= figures["escape"]["rate"] <= figures["escape"]["high"] <= 1
    assert (tmp_path / "e.html").read_text().count("<figure>") == 6


@pytest.fixture(scope="module")
def laden(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildSettings, Path, list[str]]:
    """A build of 90 small parts with all that may be given: the last of them is spoiled, the mask is green. Its settings, its
    bundle and what was said."""
    folder = tmp_path_factory.mktemp("laden")
    for place in ("photos/lot", "photos/zz", "general"):
        (folder / place).mkdir(parents=True)
    for k in range(90):
        picture = part(k)[:72, :96].copy()
        if k == 89:
            picture[20:50, 30:60] = np.random.default_rng(k).choice([0, 255], (30, 30, 1))
        Image.fromarray(picture).save(folder / "photos" / ("zz" if k == 89 else "lot") / f"part{k:02}_a.png")
    for k in range(3):
        Image.fromarray(part(k)[:60, :60]).save(folder / "general" / f"{k}.png")
    mask = np.zeros((144, 192, 3), np.uint8)
    mask[8:-8, 8:-8, 1] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    group_by = r"part(\d+)"
    late = (split_folder(folder / "photos", group_by, seed).train[60:] for seed in range(999))
    seed = next(seed for seed, images in enumerate(late) if "zz" in {image.path.parent.name for image in images})
    settings = BuildSettings(
        data=folder / "photos",
        name="laden",
        models_dir=folder / "models",
        runs_dir=folder / "runs",
        teacher=str(root / "models" / "teachers" / "pdn-small.safetensors"),
        minutes=30,
        global_map=False,
        group_by=group_by,
        penalty=folder / "general",
        working_size=96,
        layout="free",
        roi=folder / "mask.png",
        seed=seed,
    )
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "service.training.build.export_forms",
            lambda detector, *_, **__: {"float32": store_as_half(to_onnx(detector))},
        )
        plain = replace(recipe_named("default", 63), directions=None)
        patch.setattr("service.training.build.recipe_named", lambda *_: plain)
        return settings, build(settings, said.append, obtain=untrained), said


def untrained(trainer: Trainer, checkpoint: Path) -> Detector:
    """The network as a training begins with it: what is unlike the rest stands out to it as well."""
    trainer.history.losses.append((1, 1.0))
    return trainer.detector.eval()


def test_a_spoiled_picture_at_the_end_of_a_large_folder_is_shown(
    laden: tuple[BuildSettings, Path, list[str]],
) -> None:
    settings, folder, said = laden
    splits = split_folder(settings.data, settings.group_by, settings.seed)
    assert (len(splits.train), len(splits.validation)) == (63, 9)
    assert any("judging 72 training pictures" in line for line in said)
    suspects = (folder / "report.html").read_text().partition("<h2>Training pictures that look least normal</h2>")[2]
    assert "Of all 72 " in suspects
    assert suspects.count("<figure>") == suspects.count("data:image/jpeg;base64,") == 12
    assert "<figcaption>zz/part89_a.png: " in suspects


def test_the_manifest_says_what_was_given(laden: tuple[BuildSettings, Path, list[str]]) -> None:
    given = verify(laden[1]).manifest.training
    assert given["group_by"] == r"part(\d+)"
    assert (given["penalty"], given["penalty_images"], given["penalty_batch"]) == ("general", 3, 1)
    assert given["minutes"] == 30


def test_a_coloured_mask_is_served_as_it_was_trained(laden: tuple[BuildSettings, Path, list[str]]) -> None:
    settings, folder, _ = laden
    bundle = load_bundle(folder, EngineOptions(provider="cpu"))  # its golden pictures are met
    written = decode((folder / "roi.png").read_bytes(), 10**6)
    assert set(np.unique(written)) == {0, 255}
    assert (written[..., 0] == written[..., 1]).all()
    assert bundle.roi is not None
    assert bundle.roi.mean() == pytest.approx(128 * 176 / (144 * 192))
    assert settings.roi is not None
    np.testing.assert_array_equal(bundle.roi, _mask(settings.roi, ()))


@pytest.mark.parametrize(("size", "fits"), [((400, 300), True), ((202, 150), True), ((206, 150), False)])
def test_a_mask_of_another_shape_is_refused(
    size: tuple[int, int], fits: bool, settings: BuildSettings, tmp_path: Path
) -> None:
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    images = split_folder(settings.data).images
    if fits:
        assert _mask(tmp_path / "mask.png", images).shape == size[::-1]
        return
    with pytest.raises(BadRequest, match=r"mask\.png has 206x150 px, another shape than 12 of 12 pictures"):
        build(replace(settings, roi=tmp_path / "mask.png"), lambda _: None)


def test_a_mask_must_have_the_shape_of_every_picture(settings: BuildSettings) -> None:
    assert settings.roi is not None
    images = split_folder(settings.data).images
    odd = replace(images[3], path=Path("odd.png"), width=150)
    with pytest.raises(BadRequest, match=r"another shape than 1 of 13 pictures, as odd\.png with 150x150 px"):
        _mask(settings.roi, (*images, odd))


def test_a_mask_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (120, 127, 0)).save(tmp_path / "dark.png")
    (tmp_path / "torn.png").write_bytes(b"junk")
    for name, words in (("dark", "black all over"), ("torn", "not a picture")):
        with pytest.raises(BadRequest, match=rf"{name}\.png.*{words}"):
            _mask(tmp_path / f"{name}.png", ())


@pytest.mark.parametrize(("height", "fits"), [(2, False), (4, True)])
def test_a_mask_between_the_cells_is_refused_before_any_picture_is_decoded(
    height: int, fits: bool, settings: BuildSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of 200x150 px, judged at their own size: the cells are in every fourth row."""
    mask = np.zeros((150, 200), np.uint8)
    mask[61 : 61 + height] = 255
    Image.fromarray(mask).save(tmp_path / "thin.png")

    class Loaded(Exception):
        pass

    def load(*_: object) -> None:
        raise Loaded

    monkeypatch.setattr("service.training.build.load_pictures", load)
    asked = replace(settings, roi=tmp_path / "thin.png")
    if fits:
        with pytest.raises(Loaded):
            build(asked, lambda _: None)
        return
    with pytest.raises(BadRequest, match=r"thin\.png.*at least 4 px.*--working-size"):
        build(asked, lambda _: None)


@pytest.mark.parametrize("width", [8, 800, 1001])
def test_a_mask_as_wide_as_is_said_has_cells_wherever_it_lies(width: int) -> None:
    recipe = PrepareRecipe(value=300)
    image = NormalImage(Path("a.png"), "a", width, width)
    roi = np.zeros((width, width), bool)
    roi[0] = True
    least = None
    for row in range(1, width - 1):  # the first row that no cell is in
        roi[:] = False
        roi[row] = True
        try:
            _require_cells(Path("a.png"), roi, [image], recipe)
        except BadRequest as error:
            least = int(re.findall(r"at least (\d+) px", error.detail)[0])
            break
    if least is None:  # cells are finer than pixels
        assert width == 8
        return
    for start in range(width - least + 1):
        roi[:] = False
        roi[start : start + least] = True
        _require_cells(Path("a.png"), roi, [image], recipe)


def test_a_mask_must_show_cells_of_every_size(tmp_path: Path) -> None:
    roi = np.zeros((150, 200), bool)
    roi[60] = True
    images = [NormalImage(Path(f"{width}.png"), "a", width, width * 3 // 4) for width in (200, 800)]
    recipe = PrepareRecipe(rule="scale", value=1)
    for order in (images, images[::-1]):
        _require_cells(tmp_path, roi, order[:1], recipe)
    roi = np.roll(roi, 1, axis=0)
    with pytest.raises(BadRequest, match="of 200x150 px"):
        _require_cells(tmp_path, roi, images[::-1], recipe)


@pytest.mark.parametrize("smallest", [0.0, -1.0, float("nan"), float("inf"), 201.0])
def test_a_smallest_flaw_that_cannot_be_is_refused_before_any_picture_is_decoded(
    smallest: float, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.training.build.load_pictures", None)
    with pytest.raises(BadRequest, match="at most as long as the pictures, 200 px, not "):
        build(replace(settings, min_flaw_px=smallest), lambda _: None)


def test_too_little_memory_is_said_before_any_picture_is_decoded(
    settings: BuildSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.training.build.load_pictures", None)
    monkeypatch.setattr("service.training.data.available_memory", lambda: 2 * 12 * 200 * 150 * 3 - 1)
    with pytest.raises(BadRequest, match="12 pictures of up to 200x150 px"):
        build(settings, lambda _: None)


def test_damaged_pictures_of_all_uses_are_named_together(settings: BuildSettings, tmp_path: Path) -> None:
    for k in range(12):
        Image.fromarray(part(k)).save(tmp_path / f"{k:02}.png")
    splits = split_folder(tmp_path)
    torn = [splits.train[0].path, splits.calibration[0].path]
    for file in torn:
        file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(BadRequest, match="2 of 12 images cannot be read") as refused:
        build(replace(settings, data=tmp_path), lambda _: None)
    assert all(f"{file}: " in refused.value.detail for file in torn)
    with pytest.raises(BadRequest, match="2 of 12 images cannot be read"):
        build(replace(settings, penalty=tmp_path), lambda _: None)


def test_an_autoencoder_that_has_learned_nothing_is_left_out(
    bundle_dir: Path, settings: BuildSettings, float32_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify(bundle_dir).manifest.network.global_map
    monkeypatch.setattr(logical, "LEAST", 0.05)
    said: list[str] = []
    other = replace(remembered(settings.runs_dir / settings.name), name="plain")
    folder = build(other, said.append, obtain=lambda trainer, _: untrained(trainer, settings.runs_dir))
    assert any("missing or moved" in line and line.endswith("it is left out") for line in said)
    manifest = verify(folder).manifest
    assert not manifest.network.global_map
    assert manifest.quantiles.logical is None
    assert load_bundle(folder).plan(200, 150).windows == 1


def test_a_stopped_run_can_be_exported_as_the_next_version(
    bundle_dir: Path, settings: BuildSettings, float32_alone: None
) -> None:
    run_dir = settings.runs_dir / settings.name
    chosen = verify(bundle_dir).manifest
    assert remembered(run_dir) == replace(settings, teacher=chosen.teacher.name, lighting=chosen.prepare.lighting)
    folder = build(remembered(run_dir), lambda _: None, obtain=Trainer.best_so_far)
    assert folder.name == "2"
    first, second = (verify(place).manifest for place in (bundle_dir, folder))
    np.testing.assert_allclose(
        first.forms["float32"].calibration_scores, second.forms["float32"].calibration_scores, rtol=1e-3
    )
    with pytest.raises(BadRequest, match="have changed since"):
        build(replace(settings, working_size=220), lambda _: None, obtain=Trainer.best_so_far)
    with pytest.raises(BadRequest, match="nothing has been trained"):
        build(replace(settings, name="other"), lambda _: None, obtain=Trainer.best_so_far)


def test_a_teacher_s_file_is_found_again(laden: tuple[BuildSettings, Path, list[str]]) -> None:
    settings, folder, _ = laden
    kept = remembered(settings.runs_dir / settings.name)
    assert kept.teacher == settings.teacher

    class Reached(Exception):
        pass

    def obtain(*_: object) -> Any:
        raise Reached

    with pytest.raises(Reached):  # as `flawscribe export`
        build(replace(kept, teachers_dir=folder / "elsewhere"), lambda _: None, obtain=obtain)
    assert verify(folder).manifest.teacher.name == "pdn-small"
    page = (folder / "report.html").read_text()
    assert "Teacher pdn-small, " in page
    assert settings.teacher not in page


def test_what_is_settled_behind_the_last_step_may_change_without_a_training(
    bundle_dir: Path, settings: BuildSettings, tmp_path: Path, float32_alone: None
) -> None:
    steps: list[int] = []
    other = replace(settings, models_dir=tmp_path, layout="free", false_reject_rate=0.2)
    again = verify(build(other, lambda text: None, lambda step, *_: steps.append(step))).manifest
    assert steps == [settings.steps]  # the last one is told again, and none is made
    assert again.forms["float32"].reject_rule.false_reject_rate == 0.2
    assert again.quantiles == verify(bundle_dir).manifest.quantiles


def test_a_layout_of_few_parts_is_refused_before_any_step(settings: BuildSettings) -> None:
    with pytest.raises(BadRequest, match="--layout fixed needs at least 20 pictures"):
        build(replace(settings, name="laid", layout="fixed"), lambda text: None)


def test_a_training_never_goes_on_from_that_of_other_images(bundle_dir: Path, settings: BuildSettings) -> None:
    """A second training under one name, on other pictures, must not answer with the first one's student."""
    said: list[str] = []
    changed = replace(settings, seed=1)

    class Reached(Exception):
        pass

    def first_step(step: int, steps: int, loss: float) -> None:
        assert step == 1
        raise Reached

    with pytest.raises(Reached):
        build(changed, said.append, first_step)
    assert any("starting anew" in line for line in said)
    assert (settings.runs_dir / settings.name / "checkpoint.old.pt").exists()


def test_evened_light_is_learned_served_and_remembered(
    settings: BuildSettings, tmp_path: Path, float32_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.training.build.is_better_lit", lambda *_: True)
    asked = replace(settings, models_dir=tmp_path / "models", runs_dir=tmp_path / "runs", lighting="auto")
    folder = build(asked, lambda _: None)
    bundle = load_bundle(folder, EngineOptions(provider="cpu"))
    assert bundle.manifest.prepare.lighting == "even"
    assert remembered(tmp_path / "runs" / "plate").lighting == "even"
    assert "light evened out" in (folder / "report.html").read_text()
    dark = (part(7, flaw=True) * 0.5).astype(np.uint8)
    as_is = replace(
        bundle,
        manifest=bundle.manifest.model_copy(
            update={"prepare": bundle.manifest.prepare.model_copy(update={"lighting": "as_is"})}
        ),
    )
    scores = [each.anomaly_map(picture).score for each in (bundle, as_is) for picture in (part(7, flaw=True), dark)]
    assert abs(scores[0] - scores[1]) < 0.5 * abs(scores[2] - scores[3])


def test_published_weights_take_our_teachers_place(
    settings: BuildSettings, data: Path, tmp_path: Path, float32_alone: None
) -> None:
    torch.manual_seed(5)
    torch.save(published_sequential("small").state_dict(), tmp_path / "teacher_small.pth")
    weights = import_teacher(tmp_path / "teacher_small.pth", "theirs", tmp_path / "teachers")
    own = replace(
        settings,
        teacher="theirs",
        teachers_dir=weights.parent,
        models_dir=tmp_path / "models",
        runs_dir=tmp_path / "runs",
    )
    folder = build(replace(own, global_map=False), lambda _: None)
    told = verify(folder).manifest.teacher
    assert (told.name, told.sha256) == ("theirs", hashlib.sha256(weights.read_bytes()).hexdigest())
    with running(tmp_path / "models") as service:
        flawed = (data / "test" / "hole" / "000.png").read_bytes()
        answer = service.client.post("/detect", files={"image": ("a.png", flawed)})
    assert (answer.status_code, answer.json()["model"]["name"]) == (200, "plate")
    assert answer.json()["results"][0]["anomaly_score"] is not None


def test_errors_are_one_line_and_exit_code_two(tmp_path: Path) -> None:
    for arguments, words in (
        (("train", "--data", tmp_path, "--name", "x"), "no picture"),
        (("train", "--data", tmp_path, "--name", "x", "--min-flaw-mm", "1"), "--mm-per-pixel"),
        (("check", tmp_path), "manifest.json cannot be read"),
        (("score", tmp_path / "none", "--model", "x"), "does not exist"),
    ):
        done = run(*arguments)
        assert done.returncode == 2, arguments
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_jpegs_are_served_at_the_scale_they_were_learned_at(
    settings: BuildSettings, tmp_path: Path, float32_alone: None
) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    for k in range(10):
        Image.fromarray(part(k)).resize((400, 300)).save(data / f"{k}.jpg", quality=92)
    own = replace(settings, data=data, name="photo", roi=None, min_flaw_px=12.0, runs_dir=tmp_path / "runs")
    folder = build(own, lambda _: None)
    manifest = verify(folder).manifest
    assert manifest.prepare.jpeg == "scaled"
    assert manifest.min_flaw_px == 12
    assert manifest.quality_gate.min_pixels == pytest.approx(0.5 * 200 * 150)  # half of what the network sees
    bundle = load_bundle(folder, EngineOptions(precision="float32", provider="cpu"))  # its golden pictures are met
    files = [image.path for image in split_folder(data).calibration]
    scores = sorted(bundle.anomaly_map_of_file(file.read_bytes(), 10**7).score for file in files)
    np.testing.assert_allclose(scores, bundle.form.calibration_scores, rtol=1e-4)

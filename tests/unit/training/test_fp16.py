"""The fp16 form is added to a bundle that was made without it, by good parts that it did not learn from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from service.bundle.load import EngineOptions, load_bundle
from service.bundle.verify import verify
from service.errors import BadRequest, BundleRefused
from service.training import fp16 as fp16_module
from service.training.data import split_folder
from service.training.fp16 import held_out_of, with_fp16
from tests.networks import grey_picture, png, write_bundle


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of twelve grey parts, each a little darker than the one before."""
    folder = tmp_path_factory.mktemp("parts")
    for index in range(12):
        picture = grey_picture(level=235 - index)
        picture[60:90, 60:90] -= 40
        (folder / f"{index:02}.png").write_bytes(png(picture))
    return folder


def test_a_version_with_the_form_follows_and_nothing_else_changes(tmp_path: Path, parts: Path) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    counted: list[int] = []
    made = with_fp16(folder, split_folder(parts).images, done=counted.append)
    assert made == tmp_path / "probe" / "2"
    assert counted == list(range(1, 13))
    before, after = verify(folder), verify(made)
    assert after.files.keys() - before.files.keys() == {"model.fp16.onnx"}
    assert all(after.files[name] == data for name, data in before.files.items())
    forms = after.manifest.forms
    assert {name: form for name, form in forms.items() if name != "fp16"} == before.manifest.forms
    assert len(forms["fp16"].calibration_scores) == 12
    assert forms["fp16"].reject_rule.parts == 12
    assert forms["fp16"].reject_rule.false_reject_rate == before.manifest.forms["float32"].reject_rule.false_reject_rate
    assert forms["fp16"].parity.max_relative_score_error < 0.01
    loaded = load_bundle(made, EngineOptions("fp16", "cpu"))  # which its golden picture allows
    assert loaded.form_name == "fp16"
    with pytest.raises(BadRequest, match="has the fp16 form already"):
        with_fp16(made, split_folder(parts).images)


def test_thresholds_are_set_by_the_highest_shot_of_each_part(tmp_path: Path, parts: Path) -> None:
    folder = write_bundle(tmp_path)
    images = split_folder(parts).images
    by_shot = verify(with_fp16(folder, images)).manifest.forms["fp16"]
    shots = [replace(image, part=image.path.stem[-1]) for image in images]  # 10 is of the part of 00, 11 of that of 01
    by_part = verify(with_fp16(folder, shots)).manifest.forms["fp16"]
    assert len(by_shot.calibration_scores) == 12
    assert by_part.calibration_scores == pytest.approx(by_shot.calibration_scores[2:])
    assert by_part.reject_rule.parts == 10


def test_a_network_that_half_precision_changes_is_left_as_it_is(
    tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path)
    other = (write_bundle(tmp_path / "other", gain=1.1) / "model.onnx").read_bytes()
    monkeypatch.setattr(fp16_module, "halve", lambda network: other)
    with pytest.raises(BundleRefused, match=r"in fp16 .*\.png scores .* this network needs float32"):
        with_fp16(folder, split_folder(parts).images)
    assert not (tmp_path / "probe" / "2").exists()


def test_of_the_folder_it_was_trained_on_the_held_out_parts_are_taken_and_no_other_folder(
    tmp_path: Path, parts: Path
) -> None:
    folder = write_bundle(tmp_path)
    with pytest.raises(BadRequest, match="is not the folder that probe 1 was trained on"):
        held_out_of(folder, parts)
    splits = split_folder(parts, None, 3)
    manifest = (folder / "manifest.json").read_text()
    told = f'"data": {{"fingerprint": "{splits.fingerprint()}", "notes": []}}, "training": {{"seed": 3}}'
    start, rest = manifest.split('"data": {', 1)
    after = rest.split('"training": {', 1)[1].split("}", 1)[1]
    (folder / "manifest.json").write_text(start + told + after)
    assert held_out_of(folder, parts) == splits.calibration


@pytest.mark.slow
def test_the_command_adds_it_and_leaves_the_version_in_service(tmp_path: Path, parts: Path) -> None:
    folder = write_bundle(tmp_path / "models")
    command = [sys.executable, "-m", "service", "halve", str(folder)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "either --data" in refused.stderr
    done = subprocess.run([*command, "--held-out", str(parts)], capture_output=True, text=True, check=True)
    assert "probe/2 written; put it in service" in done.stdout
    assert (tmp_path / "models" / "probe" / "active").read_text().startswith("1")

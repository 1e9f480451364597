from __future__ import annotations

from pathlib import Path

import pytest

from service.bundle.recalibrate import recalibrated
from service.bundle.store import EngineOptions, Store, load_bundle
from service.errors import BadRequest, BundleRefused
from tests.networks import grey_picture, write_bundle

CPU = EngineOptions(provider="cpu", threads=1)


def test_the_next_version_differs_in_its_threshold_alone(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1)
    write_bundle(tmp_path, "probe", 4)
    made = recalibrated(folder, "float32", 0.42, 17)
    assert made == tmp_path / "probe" / "5"
    before, after = load_bundle(folder, CPU), load_bundle(made, CPU)
    assert (after.form.reject_threshold, after.form.review_threshold) == (0.42, 0.3)
    assert (after.form.reject_rule.method, after.form.reject_rule.parts) == ("reviews", 17)
    assert after.manifest.files == before.manifest.files
    assert after.manifest.metrics["recalibrated_from"] == 1
    picture = grey_picture(level=128)
    assert after.anomaly_map(picture).score == before.anomaly_map(picture).score
    assert Store(tmp_path, CPU).versions("probe") == [1, 4, 5]


def test_the_review_threshold_never_lies_above(tmp_path: Path) -> None:
    made = recalibrated(write_bundle(tmp_path, "probe", 1), "float32", 0.1, 3)
    form = load_bundle(made, CPU).form
    assert form.review_threshold == form.reject_threshold == 0.1


def test_a_form_that_is_not_there_and_an_unsound_folder_are_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1)
    with pytest.raises(BadRequest, match="no form int8"):
        recalibrated(folder, "int8", 0.4, 1)
    (folder / "model.onnx").write_bytes(b"broken")
    with pytest.raises(BundleRefused):
        recalibrated(folder, "float32", 0.4, 1)
    assert [path.name for path in (tmp_path / "probe").iterdir()] == ["1"]

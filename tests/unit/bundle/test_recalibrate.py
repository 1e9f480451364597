from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.bundle import folder as folder_module
from service.bundle import recalibrate
from service.bundle.conformal import limits
from service.bundle.recalibrate import LEAST_PARTS, recalibrated, rescored, with_threshold
from service.bundle.store import EngineOptions, Store, load_bundle
from service.errors import BadRequest, BundleRefused, NoSuchRecord, NotReady, RecordsFailure
from service.records.good_parts import GoodParts, GoodPicture
from tests.networks import grey_picture, png, write_bundle

CPU = EngineOptions(provider="cpu", threads=1)


def test_the_next_version_differs_in_its_threshold_alone(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1)
    write_bundle(tmp_path, "probe", 4)
    made = with_threshold(folder, "float32", 0.42, 17)
    assert made == tmp_path / "probe" / "5"
    before, after = load_bundle(folder, CPU), load_bundle(made, CPU)
    assert (after.form.reject_threshold, after.form.review_threshold) == (0.42, 0.3)
    assert (after.form.reject_rule.method, after.form.reject_rule.parts) == ("reviews", 17)
    above = sum(score > 0.42 for score in after.form.calibration_scores)
    parts = len(after.form.calibration_scores)
    assert after.form.reject_rule.false_reject_rate == min(1 + above, parts) / (parts + 1)
    assert after.form.review_rule == before.form.review_rule
    assert after.manifest.files == before.manifest.files
    assert after.manifest.metrics["recalibrated_from"] == 1
    picture = grey_picture(level=128)
    assert after.anomaly_map(picture).score == before.anomaly_map(picture).score
    assert Store(tmp_path, CPU).versions("probe") == [1, 4, 5]


def test_the_review_threshold_never_lies_above(tmp_path: Path) -> None:
    made = with_threshold(write_bundle(tmp_path, "probe", 1), "float32", 0.1, 3)
    form = load_bundle(made, CPU).form
    assert form.review_threshold == form.reject_threshold == 0.1
    assert form.review_rule == form.reject_rule
    assert form.review_rule.method == "reviews"


def test_a_form_that_is_not_there_and_an_unsound_folder_are_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1)
    with pytest.raises(BadRequest, match="no form int8"):
        with_threshold(folder, "int8", 0.4, 1)
    with pytest.raises(BadRequest, match="finite"):
        with_threshold(folder, "float32", float("nan"), 1)
    (folder / "model.onnx").write_bytes(b"broken")
    with pytest.raises(BundleRefused):
        with_threshold(folder, "float32", 0.4, 1)
    assert [path.name for path in (tmp_path / "probe").iterdir()] == ["1"]


def test_two_that_write_the_same_version_at_once_write_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bundle(tmp_path, "probe", 1)
    original, both = recalibrate.next_version, threading.Barrier(2)

    def same(model_dir: Path) -> int:
        version = original(model_dir)
        both.wait(30)
        return version

    monkeypatch.setattr(recalibrate, "next_version", same)
    wanted = (0.4, 0.45)
    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(with_threshold, folder, "float32", reject, 1) for reject in wanted]
        made = [future.result(30) for future in writing]
    assert sorted(path.name for path in (tmp_path / "probe").iterdir()) == ["1", "2", "3"]
    for place, reject in zip(made, wanted, strict=True):
        bundle = load_bundle(place, CPU)
        assert (str(bundle.manifest.version), bundle.form.reject_threshold) == (place.name, reject)


def test_a_bundle_on_its_way_is_found_by_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed training's is removed by that, see Trainings."""
    seen = []
    verify = folder_module.verify

    def look(folder: Path) -> None:
        seen.append((folder, list(folder.parent.glob(f".*.{os.getpid()}"))))
        verify(folder)

    monkeypatch.setattr(folder_module, "verify", look)
    folder = write_bundle(tmp_path, "probe", 1)
    for _ in range(2):
        with_threshold(folder, "float32", 0.4, 1)
    (first, found), (second, _) = seen
    assert found == [first]
    assert first.name != second.name


START, SECOND = datetime(2026, 3, 9, tzinfo=UTC), timedelta(seconds=1)


def good(count: int) -> GoodParts:
    """Parts with scores 0.001, 0.002 ...; each seen twice, its first shot a little lower; a person called three pictures good."""
    shots = [(number, lower) for number in range(count) for lower in (0.0005, 0)]
    return GoodParts(
        tuple(
            GoodPicture(f"part {number}", (number + 1) / 1000 - lower, f"{shot:064x}", START + shot * SECOND, shot < 3)
            for shot, (number, lower) in enumerate(shots)
        ),
        open=0,
    )


def test_a_recalibrated_version_takes_thresholds_and_p_values_from_the_good_parts(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1, int8_gain=1.0)
    made = recalibrated(folder, {"int8": good(199)}, 0.01)
    before, after = Store(tmp_path, CPU).manifest("probe", 1), Store(tmp_path, CPU).manifest("probe", 2)
    form, scores = after.forms["int8"], [(number + 1) / 1000 for number in range(199)]
    assert made.name == "2"
    assert list(form.calibration_scores) == scores
    assert (form.reject_threshold, form.review_threshold) == (limits(scores, 0.01).reject, limits(scores, 0.01).review)
    assert (form.reject_rule.method, form.reject_rule.parts) == ("conformal", 199)
    assert after.forms["float32"] == before.forms["float32"]
    assert (after.files, after.golden) == (before.files, before.golden)
    assert after.metrics["recalibration"]["int8"] == {
        "parts": 199,
        "pictures": 398,
        "reviewed": 3,
        "rescored": False,
        "from": "2026-03-09T00:00:00+00:00",
        "to": "2026-03-09T00:06:37+00:00",
    }
    load_bundle(made, EngineOptions(precision="int8", provider="cpu", threads=1))


def test_a_recalibration_keeps_the_rate_and_needs_enough_parts(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1)
    recalibrated(folder, {"float32": good(50)})
    assert Store(tmp_path, CPU).manifest("probe", 2).forms["float32"].reject_rule.false_reject_rate == 0.1
    with pytest.raises(BadRequest, match=f"{LEAST_PARTS} are the least"):
        recalibrated(folder, {"float32": good(LEAST_PARTS - 1)})


def shots(*seen: tuple[str, str]) -> GoodParts:
    """Parts with their pictures, all scored 0.1 by another form."""
    return GoodParts(tuple(GoodPicture(part, 0.1, sha256, START, False) for part, sha256 in seen), open=0)


def test_kept_pictures_are_scored_by_a_form_that_has_not_judged_them(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1, int8_gain=0.5)
    kept = {"light": png(grey_picture(level=204)), "dark": png(grey_picture(level=153)), "raw": b"no picture file"}

    def fetch(sha256: str) -> bytes:
        if sha256 == "torn":
            raise RecordsFailure("the picture could not be read: Input/output error")
        if sha256 not in kept:
            raise NoSuchRecord(sha256)
        return kept[sha256]

    parts = shots(
        ("A", "light"), ("A", "dark"), ("B", "light"), ("C", "light"), ("C", "gone"), ("D", "raw"), ("E", "torn")
    )
    found = rescored(folder, "int8", parts, fetch, 10**6)
    assert [(picture.part, picture.sha256) for picture in found.pictures] == [
        ("A", "light"),
        ("A", "dark"),
        ("B", "light"),  # C, D and E are left out whole: their highest scores are unknown
    ]
    assert [picture.score for picture in found.pictures] == pytest.approx([0.1, 0.2, 0.1], abs=1e-5)
    assert found.rescored


def test_a_form_that_does_not_run_here_scores_nothing(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1)
    with pytest.raises((NotReady, BundleRefused)):
        rescored(folder, "int8", shots(("A", "light")), lambda sha256: b"", 10**6)

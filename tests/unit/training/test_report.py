"""report.html shows what it promises, of one form."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from service.bundle.load import Bundle
from service.training.forms import Calibrated
from service.training.product import Product
from service.training.report import Report, Shown, samples, write_report
from service.training.train import History
from tests.networks import grey_picture


@pytest.fixture
def report(probe: Bundle) -> Report:
    """Of the darkness network, whose int8 form has other thresholds."""
    dark = grey_picture()
    dark[40:90, 40:90] = 0
    form = probe.form
    other = form.model_copy(update={"review_threshold": 7.25, "reject_threshold": 8.5})
    return Report(
        name="probe",
        data="photos",
        counts={"train": 70, "validation": 10, "calibration": 9},
        notes=(),
        forms={"float32": Calibrated(form, {"a": 0.05, "b/<2>": 0.21}), "int8": Calibrated(other, {"a": 0.05})},
        shown_form="float32",
        history=History([(1, 3.0), (2, 0.3)], [(2, 0.97)]),
        separation=0.97,
        ranked=80,
        suspects=[Shown(dark, probe.anomaly_map(dark), "line 2/<last>.png")],
        samples=[Shown(each, probe.anomaly_map(each)) for each in (grey_picture(), dark)],
        seconds=60,
        recipe="default",
        teacher="pdn-small",
        lighting="as_is",
        by_place=False,
    )


def section(page: str, title: str) -> str:
    """What follows a heading that begins with `title`, up to the next one."""
    return page.partition(f"<h2>{title}")[2].partition("<h2>")[0]


def test_the_histogram_shows_the_calibration_scores_with_both_thresholds(report: Report) -> None:
    shown = section(write_report(report), "Scores of good parts that set the thresholds, float32")
    plot = shown.partition("</svg>")[0]
    assert plot.count("<rect") == 9  # scores that lie apart
    assert re.findall(r">(review|reject) ([0-9.]+)</text>", plot) == [("review", "0.300"), ("reject", "0.500")]
    assert plot.count("<line") == 2
    assert "The highest: b/&lt;2&gt; 0.2100, a 0.0500." in shown


def test_the_training_curve_has_every_loss_and_every_evaluation(report: Report) -> None:
    plot = section(write_report(report), "Training</h2>").partition("</svg>")[0]
    points = re.findall(r'points="([^"]*)"', plot)[0].split()
    assert len(points) == 2
    heights = [float(point.split(",")[1]) for point in points]
    assert heights[0] < heights[1]  # it falls
    assert "step 2: 0.9700" in plot


def test_maps_words_and_thresholds_are_of_one_form(report: Report) -> None:
    for form, words in (("float32", ["ok", "not ok"]), ("int8", ["ok", "ok"])):
        page = write_report(replace(report, shown_form=form))  # type: ignore[arg-type]
        shown = section(page, "Held-back good parts")
        assert re.findall(r"<figcaption>(.*?), [0-9.]+</figcaption>", shown) == words


def test_what_looks_least_normal_is_shown_with_its_path_and_heat(report: Report) -> None:
    shown = section(write_report(report), "Training pictures that look least normal")
    assert "Of all 80 " in shown
    assert "<figcaption>line 2/&lt;last&gt;.png: not ok, 1.000</figcaption>" in shown
    assert shown.count("data:image/jpeg;base64,") == 1
    encoded = shown.partition("base64,")[2].partition('"')[0]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(int)
    assert np.ptp(drawn[65, 65]) > 60  # red where the part is black
    assert np.ptp(drawn[200, 200]) < 20


def test_painted_samples_lie_where_parts_are_looked_at(probe: Bundle) -> None:
    roi = np.zeros((150, 200), bool)
    roi[100:140, 20:70] = True
    product = Product(probe.manifest.prepare, False, 4.0, roi)
    plain = grey_picture(150, 200)
    for seed in range(8):
        shown = samples(seed, product, probe.session, [plain])
        changed = (np.abs(shown[1].rgb.astype(int) - plain).max(axis=2) > 0) & roi
        assert changed.any()

"""Labelled test sets: what cannot be read is named, and what cannot be judged is counted apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.bundle.load import Bundle
from service.errors import UnreadableImage
from service.training.evaluate import (
    Evaluation,
    Scored,
    _truth,
    evaluate,
    find_test_images,
    score_all,
    to_html,
    to_json,
    to_text,
    worst,
)
from tests.networks import grey_picture, png

HOLE = (slice(40, 80), slice(110, 170))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One good and one flawed part, with a mask."""
    for place in ("test/good/0.png", "test/hole/1.png", "ground_truth/hole/1_mask.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(png(grey_picture()))
    return tmp_path


@pytest.mark.parametrize("content", [b"no picture", png(grey_picture())[:60]], ids=["other", "torn"])
def test_a_picture_that_cannot_be_read_is_named(content: bytes, probe: Bundle, dataset: Path) -> None:
    (dataset / "test/hole/1.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"test/hole/1\.png: "):
        score_all(probe, find_test_images(dataset))


@pytest.mark.parametrize("content", [b"no picture", png(grey_picture())[:60]], ids=["other", "torn"])
def test_a_mask_that_cannot_be_read_is_named(content: bytes, probe: Bundle, dataset: Path) -> None:
    (dataset / "ground_truth/hole/1_mask.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"hole/1_mask\.png: no mask"):
        score_all(probe, find_test_images(dataset))


def pixel_figures(bundle: Bundle, folder: Path, *, mask_at: tuple[slice, slice]) -> Evaluation:
    """Of a good part and of one with a hole, whose mask lies where it is told to."""
    picture = grey_picture()
    picture[HOLE] = 0
    mask = np.zeros_like(picture)
    mask[mask_at] = 255
    for place, shown in (("test/good/0", grey_picture()), ("test/hole/1", picture), ("ground_truth/hole/1_mask", mask)):
        file = folder / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(shown))
    return evaluate(bundle, score_all(bundle, find_test_images(folder)))


def test_pixel_figures_are_high_where_the_mask_lies_on_the_flaw_alone(probe: Bundle, tmp_path: Path) -> None:
    found = pixel_figures(probe, tmp_path / "on_it", mask_at=HOLE)
    missed = pixel_figures(probe, tmp_path / "beside_it", mask_at=(slice(120, 160), slice(20, 80)))
    assert min(found.pixel_auroc, found.au_pro, found.au_pro_005) > 0.95
    assert missed.pixel_auroc < 0.6
    assert max(missed.au_pro, missed.au_pro_005) < 0.1


@pytest.mark.parametrize("shade", [1, 100, 255])
def test_masks_of_labels_count_as_those_in_white_do(shade: int, tmp_path: Path) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:60] = shade
    Image.fromarray(mask).save(tmp_path / "mask.png")
    truth = _truth(tmp_path / "mask.png", (40, 30))
    assert truth.shape == (30, 40)
    assert truth[10:20, 10:30].all()
    assert truth.sum() == 10 * 20


def test_a_flaw_thinner_than_the_map_s_places_does_not_vanish(tmp_path: Path) -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[100:300, 201] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    truth = _truth(tmp_path / "mask.png", (100, 100))
    assert truth[30:70, 50].all()
    assert truth.sum() <= 52
    assert not _truth_of(np.zeros((40, 40), np.uint8), tmp_path).any()


def _truth_of(mask: np.ndarray, folder: Path) -> np.ndarray:
    Image.fromarray(mask).save(folder / "other.png")
    return _truth(folder / "other.png", (10, 10))


def test_pixel_figures_of_noise_are_those_of_chance(probe: Bundle, dataset: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((2, 100, 100), bool)
    truth[1, 20:70, 30:80] = True
    noise = rng.random((2, 100, 100), np.float32)
    scored = score_all(probe, find_test_images(dataset))
    found = evaluate(
        probe, [replace(each, cells=noise[place], truth=truth[place]) for place, each in enumerate(scored)]
    )
    assert found.pixel_auroc == pytest.approx(0.5, abs=0.03)
    assert found.au_pro == pytest.approx(0.15, abs=0.02)
    assert found.au_pro_005 == pytest.approx(0.025, abs=0.01)


def test_each_defect_has_a_pixel_figure_of_its_own_and_none_where_nobody_drew_it(probe: Bundle, lit: Path) -> None:
    scored = score_all(probe, find_test_images(lit))
    drawn = {"good": (0.0, False), "hole": (1.0, True)}  # what the map says there, and whether it is flawed
    figures = evaluate(
        probe,
        [
            replace(
                each,
                cells=np.full((4, 4), drawn.get(each.image.defect, (0.0, False))[0], np.float32),
                truth=np.full((4, 4), drawn[each.image.defect][1]) if each.image.defect in drawn else None,
            )
            for each in scored
        ],
    )
    assert {defect: row["pixel_auroc"] for defect, row in figures.by_defect.items()} == {"hole": 1.0, "stain": None}
    assert figures.pixel_auroc == 1.0
    page = to_html(figures, probe, scored)
    assert "<td>1.0000</td>" in page
    assert "<td>no masks</td>" in page


@pytest.fixture
def gated(probe: Bundle) -> Bundle:
    """The probe with a gate that takes nothing darker than 100 on average."""
    gate = probe.manifest.quality_gate.model_copy(update={"min_brightness": 100.0})
    return replace(probe, manifest=probe.manifest.model_copy(update={"quality_gate": gate}))


def part(level: int = 230, *, hole: bool = False) -> bytes:
    picture = grey_picture(level=level)
    if hole:
        picture[80:120, 80:120] = 0
    return png(picture)


@pytest.fixture
def lit(tmp_path: Path) -> Path:
    """Three good parts and four flawed ones of two kinds; one of the first and two of the others are in the dark, where
    every score is above the reject threshold."""
    for place, content in {
        "good/0": part(),
        "good/1": part(),
        "good/2": part(60),
        "hole/3": part(hole=True),
        "hole/4": part(50),
        "stain/5": part(200),
        "stain/6": part(40),
    }.items():
        file = tmp_path / "test" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path


@pytest.fixture
def scored(gated: Bundle, lit: Path) -> list[Scored]:
    return score_all(gated, find_test_images(lit))


def test_what_cannot_be_judged_is_neither_overkill_nor_escape(
    gated: Bundle, probe: Bundle, lit: Path, scored: list[Scored]
) -> None:
    found = evaluate(gated, scored)
    assert (found.overkill.hits, found.overkill.trials) == (0, 2)
    assert (found.escape.hits, found.escape.trials) == (1, 2)
    assert (found.undecidable.good, found.undecidable.flawed) == (1, 2)
    assert found.images == 7
    assert found.review_share == 0
    assert found.by_defect["hole"]["escape"]["trials"] == 1
    assert {defect: row["undecidable"] for defect, row in found.by_defect.items()} == {"hole": 1, "stain": 1}
    ungated = evaluate(probe, score_all(probe, find_test_images(lit)))
    assert (ungated.overkill.hits, ungated.overkill.trials, ungated.undecidable.good) == (1, 3, 0)
    assert found.image_auroc == ungated.image_auroc  # the network's: over all scores


def test_what_cannot_be_judged_is_told_everywhere(gated: Bundle, scored: list[Scored]) -> None:
    found = evaluate(gated, scored)
    assert json.loads(to_json(found))["undecidable"] == {"good": 1, "flawed": 2}
    lines = to_text(scored)
    assert lines[0].startswith("3 of 7 pictures are undecidable, 1 good and 2 flawed ones")
    assert lines[1].startswith("good/2.png: too dark: brightness 60")
    page = to_html(found, gated, scored)
    assert lines[0] in page
    assert page.count("<figure>") == 4
    assert {item.image.path.name for item in worst(scored)} == {"0.png", "1.png", "3.png", "5.png"}
    assert to_text(worst(scored)) == []


def test_a_set_of_which_nothing_can_be_judged_has_figures_too(gated: Bundle, scored: list[Scored]) -> None:
    found = evaluate(gated, [item for item in scored if item.reasons])
    assert (found.overkill.trials, found.escape.trials, found.review_share) == (0, 0, 0.0)
    assert found.overkill.high == found.escape.high == 1
    assert np.isfinite(found.image_auroc)

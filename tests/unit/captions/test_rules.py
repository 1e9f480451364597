"""Words from geometry and pixels."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.captions.figures import as_measured, describe_region_figures, measure
from service.captions.place import PLACES, place_word
from service.captions.products import UNKNOWN, ProductCard
from service.captions.rules import MOST_WORDS, classify_by_rules, classify_picture, margin_words, named, ten_words
from service.samples import KINDS, flaw_types, render
from service.types import Citation, Classification, Decision, Region, Severity, Thresholds, Verdict

CARD = ProductCard.model_validate(
    {
        "product": "cloth",
        "name": "cloth",
        "flaws": [
            {
                "label": "red_spot",
                "words": "red",
                "causes": ["a pen"],
                "action": "Cut.",
                "looks": {"shapes": ["spot"], "colours": ["red"]},
            },
            {"label": "thread", "words": "dark", "looks": {"shapes": ["line"], "colours": ["dark"]}},
            {"label": "hair", "words": "dark", "looks": {"shapes": ["line"], "colours": ["dark", "brown"]}},
        ],
    }
)
LIMITS = Thresholds(review=0.2, reject=0.4)


def region_of(mask: NDArray[np.bool_], peak: float = 0.8) -> Region:
    rows, columns = np.nonzero(mask)
    box = (int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    centroid = (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)
    return Region(box, int(mask.sum()), float(mask.mean()), peak, centroid, "structural")


def verdict_of(*regions: Region, decision: Decision = Decision.NOT_OK, reasons: tuple[str, ...] = ()) -> Verdict:
    return Verdict(decision, max((r.peak_score for r in regions), default=0.1), LIMITS, 0.01, regions, reasons)


def in_words(
    card: ProductCard,
    rgb: NDArray[np.uint8],
    region: Region,
    mask: NDArray[np.bool_],
    mm_per_pixel: float | None = None,
) -> Classification:
    found, size = measure(rgb, region.box, mask), (rgb.shape[0], rgb.shape[1])
    measured = as_measured(region, found, size)
    return classify_by_rules(card, found, measured, size, verdict_of(region), mm_per_pixel=mm_per_pixel)


def classify(rgb: NDArray[np.uint8], mask: NDArray[np.bool_], mm_per_pixel: float | None = None) -> Classification:
    region = region_of(mask)
    return in_words(CARD, rgb, region, mask, mm_per_pixel)


def cloth(height: int = 240, width: int = 300) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(200, 3, (height, width, 1))
    return np.broadcast_to(noise.clip(0, 255), (height, width, 3)).astype(np.uint8)


def painted(colour: tuple[int, int, int], place: tuple[slice, slice]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A cloth with a rectangle of that colour, and the coarse region that a detector would draw around it."""
    rgb = cloth()
    rgb[place] = colour
    mask = np.zeros(rgb.shape[:2], bool)
    rows, columns = place
    mask[max(0, rows.start - 6) : rows.stop + 6, max(0, columns.start - 6) : columns.stop + 6] = True
    return rgb, mask


def test_a_thin_dark_line_is_measured_inside_its_coarse_region() -> None:
    found = classify(*painted((20, 20, 20), np.s_[30:33, 10:90]), mm_per_pixel=0.5)
    assert found.description == "Dark straight line across the upper left, 40 mm long"
    assert found.attributes.size.startswith("80 px (40 mm) x 3 px (1.5 mm), ")
    assert found.attributes.colour == "dark, strong contrast"
    assert found.attributes.margin == "2.0 x the threshold"
    assert found.label == UNKNOWN  # thread and hair look alike
    assert found.severity is Severity.MAJOR


def test_a_red_spot_is_named_by_the_cards_looks() -> None:
    found = classify(*painted((200, 20, 30), np.s_[110:124, 140:154]))
    assert found.description == "Red spot in the centre, 14 px across"
    assert (found.label, found.probable_causes, found.recommended_action) == ("red_spot", ("a pen",), "Cut.")
    assert found.confidence is None


@pytest.mark.parametrize(
    ("colour", "word"),
    [
        ((240, 240, 240), "bright"),
        ((30, 60, 200), "blue"),
        ((30, 150, 40), "green"),
        ((230, 210, 40), "yellow"),
        ((230, 130, 30), "orange"),
        ((100, 60, 20), "brown"),
        ((120, 40, 160), "purple"),
        ((240, 150, 180), "pink"),
    ],
)
def test_colour_words(colour: tuple[int, int, int], word: str) -> None:
    assert classify(*painted(colour, np.s_[110:124, 140:154])).description.split()[0].lower() == word


def test_a_darker_scratch_in_red_paint_is_dark_not_red() -> None:
    rgb, mask = painted((110, 15, 15), np.s_[100:104, 100:200])
    rgb[rgb[..., 1] > 100] = (170, 25, 25)
    assert classify(rgb, mask).description.startswith("Dark straight line")


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        (np.s_[100:160, 100:170], "blotch"),
        (np.s_[110:120, 110:122], "spot"),
        (np.s_[100:104, 50:150], "straight line"),
        (np.s_[100:116, 50:150], "line"),
        (np.s_[0:30, 100:150], "edge"),
        (np.s_[0:3, 100:200], "straight line"),
    ],
)
def test_shape_words(place: tuple[slice, slice], shape: str) -> None:
    assert classify(*painted((30, 30, 30), place)).attributes.shape == shape


def test_a_small_flaw_in_a_coarse_region_is_told_and_weighed_by_its_own_area() -> None:
    rgb = cloth()
    rgb[110:120, 140:150] = (30, 30, 30)
    mask = np.zeros(rgb.shape[:2], bool)
    mask[98:132, 128:162] = True  # 1.6 % of the picture; the flaw is 0.14 % of it
    rules = [{"share": 0.01, "severity": "critical"}, {"share": 0.001, "severity": "minor"}]
    card = ProductCard.model_validate({"product": "cloth", "name": "cloth", "severity": {"rules": rules}})
    found = in_words(card, rgb, region_of(mask), mask)
    assert found.attributes.shape == "spot"
    assert found.attributes.size == "10 px x 10 px, 0.14 % of the picture"
    assert found.severity is Severity.MINOR


def test_a_curved_thread_is_a_curved_line() -> None:
    rows, columns = np.mgrid[:240, :300]
    from_centre = np.hypot(rows - 120, columns - 150)
    ring = (abs(from_centre - 50) < 2) & (columns > 150)
    rgb = cloth()
    rgb[ring] = 30
    mask = (abs(from_centre - 50) < 9) & (columns > 144)
    found = classify(rgb, mask)
    assert found.attributes.shape == "curved line"
    assert found.description == "Dark curved line across the centre, 103 px long"


def test_a_dull_red_spot_on_blue_cloth_is_red_not_grey() -> None:
    rgb = np.full((240, 300, 3), (110, 142, 152), np.uint8)  # L*a*b* 57, -8, -9, as the fabric's
    rgb[110:124, 140:154] = (118, 94, 104)
    mask = np.zeros(rgb.shape[:2], bool)
    mask[106:128, 136:158] = True
    assert classify(rgb, mask).description == "Red spot in the centre, 14 px across"


@pytest.mark.parametrize(("shapes", "named"), [(["line"], True), (["straight line"], True), (["curved line"], False)])
def test_a_card_may_mean_any_line_or_one_kind(shapes: list[str], named: bool) -> None:
    flaw = {"label": "hair", "words": "dark", "looks": {"shapes": shapes, "colours": ["dark"]}}
    card = ProductCard.model_validate({"product": "cloth", "name": "cloth", "flaws": [flaw]})
    rgb, mask = painted((20, 20, 20), np.s_[30:33, 10:90])
    region = region_of(mask)
    found = in_words(card, rgb, region, mask)
    assert (found.label == "hair") is named


@given(x=st.floats(0, 999.99), y=st.floats(0, 499.99))
def test_the_place_word_agrees_with_the_point(x: float, y: float) -> None:
    word = place_word((x, y), 1000, 500)
    assert word in PLACES
    assert ("left" in word, "right" in word) == (x < 1000 / 3, x >= 2000 / 3)
    assert ("upper" in word, "lower" in word) == (y < 500 / 3, y >= 1000 / 3)


@st.composite
def regions_in_pictures(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rgb = rng.integers(0, draw(st.sampled_from((1, 3, 40, 256))), (height, width, 3)).astype(np.uint8)
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    mask = np.zeros((height, width), bool)
    mask[y : y + draw(st.integers(1, 90)), x : x + draw(st.integers(1, 90))] = True
    mask &= rng.random(mask.shape) < draw(st.sampled_from((0.1, 0.7, 1.0)))
    mask[y, x] = True
    rgb[mask] = rng.integers(0, 256, 3)
    return rgb, mask


@settings(deadline=None, max_examples=80)
@given(picture=regions_in_pictures(), scale=st.sampled_from((None, 1e-9, 0.123, 1e6)))
def test_any_region_gives_at_most_ten_finite_words(
    picture: tuple[NDArray[np.uint8], NDArray[np.bool_]], scale: float | None
) -> None:
    rgb, mask = picture
    found = classify(rgb, mask, scale)
    assert 3 <= len(found.description.split()) <= MOST_WORDS
    text = json.dumps(asdict(found), allow_nan=False)
    assert "nan" not in text
    assert "inf" not in text
    assert classify(rgb, mask, scale) == found
    assert found.attributes.location == place_word(region_of(mask).centroid, mask.shape[1], mask.shape[0])
    assert found.attributes.location in found.description
    assert np.isfinite(describe_region_figures(rgb, mask)).all()


def test_a_mask_inside_the_box_says_the_same_as_one_of_the_whole_picture() -> None:
    rgb, mask = painted((20, 20, 20), np.s_[30:33, 10:90])
    region = region_of(mask)
    x, y, w, h = region.box
    inside = in_words(CARD, rgb, region, mask[y : y + h, x : x + w])
    assert inside == classify(rgb, mask)


def test_a_neighbouring_flaw_is_kept_out_of_the_ring() -> None:
    rgb, mask = painted((90, 90, 90), np.s_[100:120, 100:120])
    other = np.zeros_like(mask)
    other[:] = True
    other[100:120, 100:135] = False
    other &= ~mask
    rgb[other] = 0  # black everywhere around but for a strip of cloth
    clean = measure(rgb, region_of(mask).box, mask, other | mask)
    assert clean.flaw[0] < clean.around[0]
    assert measure(rgb, region_of(mask).box, mask).around[0] < clean.around[0]


@pytest.mark.parametrize("mask", [np.zeros((240, 300), bool), np.zeros((5, 5), bool), np.ones((5, 5), bool)])
def test_a_mask_that_does_not_fit_is_refused(mask: NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match="mask"):
        measure(cloth(), (10, 10, 8, 8), mask)


def test_a_mask_without_a_pixel_has_no_figures() -> None:
    with pytest.raises(ValueError, match="no pixel"):
        describe_region_figures(cloth(), np.zeros((240, 300), bool))


def test_a_few_pixels_in_a_huge_box_are_not_lost_to_thinning() -> None:
    mask = np.zeros((1500, 1500), bool)
    mask[1, 1] = mask[1499, 1499] = True
    assert classify(np.zeros((1500, 1500, 3), np.uint8), mask).description


@pytest.mark.parametrize(
    ("score", "limits", "words"),
    [
        (0.84, Thresholds(0.2, 0.4), "2.1 x the threshold"),
        (8.0, Thresholds(0.2, 0.4), "20 x the threshold"),
        (0.3, Thresholds(0.2, 0.4), "1.5 x the review threshold"),
        (0.4, Thresholds(0.2, 0.4), "2.0 x the review threshold"),
        (0.1, Thresholds(-0.3, -0.2), "0.3 above the threshold"),
    ],
)
def test_margin_words(score: float, limits: Thresholds, words: str) -> None:
    assert margin_words(score, Verdict(Decision.NOT_OK, score, limits, 0.1, ())) == words


@given(st.text())
def test_never_more_than_ten_words(text: str) -> None:
    assert len(ten_words(text).split()) <= MOST_WORDS


def test_rules_speak_english_whatever_the_cards_language() -> None:
    """docs/captions.md says so: what a card's language is for is the LLM."""
    rgb, mask = painted((200, 30, 30), np.s_[60:70, 200:210])
    region = region_of(mask)
    told = {
        language: in_words(ProductCard(product="p", name="p", language=language), rgb, region, mask)
        for language in ("en", "de")
    }
    assert told["de"] == told["en"]
    assert told["de"].description.startswith("Red spot in the upper right")


def test_a_normal_picture_is_normal() -> None:
    found = classify_picture(verdict_of(decision=Decision.OK), [])
    assert (found.label, found.description, found.severity) == ("normal", "This is normal", Severity.NONE)


def test_an_undecidable_picture_says_why() -> None:
    found = classify_picture(
        verdict_of(decision=Decision.UNDECIDABLE, reasons=("the picture is blurred", "too dark")), []
    )
    assert found.description == "Cannot be judged: the picture is blurred; too dark"
    blurred, dark = "too blurred: sharpness 0.02, limit 0.31", "too dark: brightness 3, limit 40"
    both = classify_picture(verdict_of(decision=Decision.UNDECIDABLE, reasons=(blurred, dark)), [])
    assert both.description == f"Cannot be judged: {blurred}"
    assert found.label == UNKNOWN


def test_one_flaw_speaks_for_the_picture_and_several_by_the_worst() -> None:
    minor = Classification("dent", "Dark spot in the centre, 4 px across", Severity.MINOR, ("a", "b"), "Wait.")
    major = Classification(
        UNKNOWN, "Red line across the upper centre, 130 px long", Severity.MAJOR, ("b", "c"), "Stop."
    )
    assert classify_picture(verdict_of(), [minor]) is minor
    found = classify_picture(verdict_of(), [minor, major, minor])
    assert found.description == "3 flaws; worst: red line across the upper centre"
    assert (found.label, found.severity, found.recommended_action) == ("dent", Severity.MAJOR, "Stop.")
    assert found.probable_causes == ("b", "c", "a")


def test_a_picture_cites_what_its_regions_cite_and_is_as_bad_as_suggested_of_any() -> None:
    one, two = Citation("a", "case-1", "seen-1"), Citation("a", "case-2", "seen-2")
    minor = Classification("dent", "A dent", Severity.MINOR, ("a",), cited=(one,))
    major = Classification("dent", "A dent", Severity.MAJOR, ("a",), cited=(two, one))
    found = classify_picture(verdict_of(), [minor, major])
    assert (found.probable_causes, found.cited, found.suggested_severity) == (("a",), (two, one), None)
    worse = replace(minor, suggested_severity=Severity.CRITICAL)
    found = classify_picture(verdict_of(), [worse, major])
    assert (found.severity, found.suggested_severity) == (Severity.MAJOR, Severity.CRITICAL)
    found = classify_picture(verdict_of(), [minor, replace(minor, suggested_severity=Severity.MINOR), major])
    assert found.suggested_severity is Severity.MAJOR  # of the major one nothing else was suggested


def test_a_label_takes_the_place_of_the_shape_in_the_sentence() -> None:
    found = classify(*painted((20, 20, 20), np.s_[30:33, 10:90]))
    assert named(found, "black_thread") == "Black thread in the upper left, 80 px long"
    long = named(replace(found, description="x"), "one two three four five six seven eight nine ten eleven")
    assert len(long.split()) <= MOST_WORDS
    assert long.endswith("in the upper left")


@pytest.mark.parametrize("kind", KINDS)
def test_generated_flaws_are_placed_where_they_are(kind: str) -> None:
    for flaw in flaw_types(kind):
        sample = render(kind, np.random.default_rng(3), flaw)
        found = classify(sample.image, sample.mask)
        assert found.attributes.location == place_word(region_of(sample.mask).centroid, *sample.image.shape[1::-1])
        assert len(found.description.split()) <= MOST_WORDS

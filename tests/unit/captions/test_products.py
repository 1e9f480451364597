"""Product cards, taxonomy and severity policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.captions.products import UNKNOWN, ProductCard, Products, load_card, load_products, taxonomy
from service.captions.severity import severity_of, worst
from service.errors import SettingsError
from service.types import Region, Severity

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "products" / "polka-dot.yaml"


def card(**fields: Any) -> ProductCard:
    flaws = [{"label": "scratch", "words": "a line", "severity": "minor"}, {"label": "dent", "words": "a hollow"}]
    return ProductCard.model_validate({"product": "plate", "name": "plate", "flaws": flaws, **fields})


def region(box: tuple[int, int, int, int] = (10, 10, 20, 10), width: int = 300, height: int = 300) -> Region:
    x, y, w, h = box
    return Region(box, w * h, w * h / (width * height), 0.5, (x + w / 2, y + h / 2), "structural")


def write(folder: Path, text: str, name: str = "plate") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_the_example_card_loads_and_keeps_its_pictures() -> None:
    found = load_products(EXAMPLE.parent).card("polka-dot")
    assert [flaw.label for flaw in found.flaws][:2] == ["black_thread", "needle"]
    assert found.may_leave is False


def test_a_product_without_a_card_gets_one_that_keeps_its_pictures(tmp_path: Path) -> None:
    found = load_products(tmp_path / "none").card("gear-box_7")
    assert (found.name, found.flaws, found.may_leave) == ("gear box 7", (), False)
    assert taxonomy(found).labels == (UNKNOWN,)


@pytest.mark.parametrize("product", ["../../etc/passwd", "", "  ", "x" * 500, "a\nb\tc", "\x00"])
def test_any_product_name_of_a_client_gets_a_card(product: str) -> None:
    assert Products({}).card(product).name


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("product: plate\nname: plate\nmay_leve: true\n", 3, "may_leve"),
        (
            "product: plate\nname: plate\nflaws:\n  - label: a\n    words: b\n  - label: c\n    words: [d]\n",
            7,
            "flaws.1.words",
        ),
        ("product: plate\nname: plate\nflaws:\n  - words: b\n", 4, "flaws.0.label"),
        ("product: plate\nname: plate\nmay_leave: 'yes'\n", 3, "may_leave"),
        ("product: plate\nname: plate\nmm_per_pixel: -1\n", 3, "mm_per_pixel"),
        ("product: plate\nname: plate\nmm_per_pixel: .nan\n", 3, "mm_per_pixel"),
        ("product: plate\nname: [plate\n", 3, "not valid YAML"),
        ("product: plate\nname: plate\nname: other\n", 3, "twice"),
        ("product: plate\nname: &n plate\nnormal: *n\n", 2, "aliases"),
        ("product: plate\nname: plate\nseverity:\n  rules:\n    - {severity: major}\n", 5, "needs a condition"),
        ("product: plate\nname: plate\nseverity:\n  rules:\n    - {share: 0.1, severity: none}\n", 5, "severity"),
        ("product: plate\nname: plate\nseverity:\n  rules:\n    - {places: [top], severity: major}\n", 5, "places"),
        (
            "product: plate\nname: plate\nseverity:\n  rules:\n    - {box: [0.5, 0, 0.5, 1], severity: major}\n",
            5,
            "x0 < x1",
        ),
        ("product: plate\nname: plate\nflaws:\n  - {label: Unknown, words: b}\n", 4, "reserved"),
    ],
)
def test_a_wrong_card_is_refused_by_file_line_and_field(tmp_path: Path, text: str, line: int, told: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError, match="plate") as caught:
        load_products(tmp_path)
    assert f"{path}:{line}:" in caught.value.detail
    assert told in caught.value.detail


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("product: other\nname: plate\n", "file's name"),
        ("- plate\n", "expected `field: value`"),
        ("product: plate\nname: 2024-02-30\n", "day is out of range"),
        ("product: plate\n[name]: p\n", "a field's name must be a word"),
        ("", "expected `field: value`"),
        (
            "product: plate\nname: p\nflaws: [{label: A, words: b}, {label: a, words: c}]\n",
            "labels given twice: A, a",
        ),
        ("product: plate\nname: p\nseverity: {rules: [{labels: [dent], severity: major}]}\n", "no flaw has: dent"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_card(write(tmp_path, text))
    assert told in caught.value.detail


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plate.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_card(path)


def test_taxonomy_takes_accepted_labels_once_and_ends_with_unknown() -> None:
    assert taxonomy(card(), ["scratch", " SCRATCH "]).labels == taxonomy(card()).labels
    found = taxonomy(card(), ["rust", "Scratch", "unknown", "Rust", "normal"])
    assert found.labels == ("scratch", "dent", "rust", UNKNOWN)
    assert "rust" in found
    assert "Rust" not in found


def policy(*rules: dict[str, Any], default: str = "major") -> ProductCard:
    return card(severity={"rules": list(rules), "default": default})


def test_severity_is_the_first_rule_that_holds_then_the_flaws_own_then_the_default() -> None:
    found = policy(
        {"share": 0.5, "severity": "critical"}, {"places": ["upper left"], "severity": "major"}, default="critical"
    )
    middle = region((140, 140, 20, 20))
    assert severity_of(found, "scratch", region((0, 0, 300, 300)), 300, 300) is Severity.CRITICAL
    assert severity_of(found, "scratch", region(), 300, 300) is Severity.MAJOR
    assert severity_of(found, "scratch", middle, 300, 300) is Severity.MINOR
    assert severity_of(found, "dent", middle, 300, 300) is Severity.CRITICAL
    assert severity_of(found, UNKNOWN, middle, 300, 300) is Severity.CRITICAL


def test_all_conditions_of_a_rule_must_hold() -> None:
    found = policy({"labels": ["dent"], "share": 0.001, "severity": "critical"})
    assert severity_of(found, "dent", region(), 300, 300) is Severity.CRITICAL
    assert severity_of(found, "scratch", region(), 300, 300) is Severity.MINOR
    assert severity_of(found, "dent", region((10, 10, 2, 2)), 300, 300) is Severity.MAJOR


def test_an_area_in_mm2_needs_the_scale_of_the_picture_or_the_card() -> None:
    rule = {"area_mm2": 50.0, "severity": "critical"}
    assert severity_of(policy(rule), "dent", region(), 300, 300) is Severity.MAJOR
    assert severity_of(policy(rule), "dent", region(), 300, 300, mm_per_pixel=0.5) is Severity.CRITICAL
    assert severity_of(policy(rule), "dent", region(), 300, 300, mm_per_pixel=0.4) is Severity.MAJOR
    scaled = card(mm_per_pixel=0.5, severity={"rules": [rule]})
    assert severity_of(scaled, "dent", region(), 300, 300) is Severity.CRITICAL


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((148, 0, 2, 10), "major"),
        ((149, 0, 2, 10), "critical"),
        ((299, 299, 1, 1), "critical"),
        ((0, 0, 10, 300), "major"),
    ],
)
def test_a_zone_box_counts_when_the_flaw_reaches_into_it(box: tuple[int, int, int, int], expected: str) -> None:
    found = policy({"box": [0.5, 0, 1, 1], "severity": "critical"})
    assert severity_of(found, "dent", region(box), 300, 300).value == expected


def test_worst_severity() -> None:
    assert worst([Severity.MINOR, Severity.CRITICAL, Severity.MAJOR]) is Severity.CRITICAL
    assert worst([]) is Severity.NONE


def test_every_flaw_of_the_example_is_used_in_a_valid_document() -> None:
    raw = yaml.safe_load(EXAMPLE.read_text())
    assert {item["label"] for item in raw["flaws"]} == set(taxonomy(load_card(EXAMPLE)).labels) - {UNKNOWN}

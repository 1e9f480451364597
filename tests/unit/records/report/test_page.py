from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RecordsFailure
from service.records.report.charts import control_chart, pareto_chart, trend_chart
from service.records.report.data import Flaw, InspectionRow, Review
from service.records.report.flaws import reviewed
from service.records.report.html import apportion, report_html
from service.records.report.summary import summarise
from service.types import Citation, Decision, Severity
from tests.unit.records.report.rows import DAY, a_day, flawed, no_picture, row

VOID = {"meta", "img", "br"}
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"


class Page(HTMLParser):
    """The page's elements with their attributes; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(rows: list[InspectionRow], picture: bytes | None = None, summary: str | None = None) -> str:
    fetch = no_picture if picture is None else lambda sha256: picture
    return report_html(summarise(rows, DAY), fetch, summary)


def test_a_picture_that_cannot_be_read_is_left_out_of_the_page() -> None:
    def torn(sha256: str) -> bytes:
        raise RecordsFailure("the picture could not be read: Input/output error")

    page = Page(report_html(summarise(a_day(), DAY), torn, None))
    assert page.named("img") == []
    assert page.words == Page(page_of(a_day())).words  # the figures stand


@pytest.mark.parametrize(
    "rows", [[], [row(0, Decision.UNDECIDABLE)], [row(0)], a_day()], ids=["empty", "blind", "one", "day"]
)
def test_the_page_is_well_formed_and_stands_alone(rows: list[InspectionRow], root: Path) -> None:
    text = page_of(rows, (root / "models/polka-dot/1/golden/1.png").read_bytes())
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.named("img"))
    places = {f"#{attributes.get('id')}" for _, attributes in page.elements}
    assert all(link["href"] in places for link in page.named("a"))
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"@import|url\(", text)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_every_text_is_escaped() -> None:
    review = Review("right", HOSTILE, HOSTILE, HOSTILE)
    flaw = Flaw((1, 1, 9, 9), 2.0, HOSTILE, Severity.MAJOR, HOSTILE, (HOSTILE,), HOSTILE, "llm", (HOSTILE,))
    flaw = reviewed(flaw, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    flaw = replace(flaw, cited=(Citation(HOSTILE, f"case {HOSTILE}", HOSTILE),))
    words = dict.fromkeys(("product", "lot", "serial", "station", "model", "sha256", "description"), HOSTILE)
    rows = [flawed(at, flaw, review=review, id=f"{at}{HOSTILE}", **words) for at in range(3)]
    data = summarise(rows, replace(DAY, product=HOSTILE, lot=HOSTILE))
    text = report_html(data, no_picture, HOSTILE)
    assert "<script" not in text
    assert "49" not in re.findall(r"alert\(1\)[^{]*(?:\{\{7\*7\}\}|49)", text)
    assert not Page(text).named("script")


def test_a_language_models_words_are_in_a_box_that_says_so() -> None:
    told = Page(page_of([row(0)], summary="Less thread today."))
    assert {"class": "llm"} in told.named("aside")
    assert "Less thread today." in told.words
    assert any("A language model wrote this box" in words for words in told.words)
    assert not Page(page_of([row(0)])).named("aside")


def test_pictures_are_shown_where_they_are_kept(root: Path) -> None:
    flaw = Flaw((1, 1, 9, 9), 2.0, "hole", Severity.MAJOR, "Dark spot")
    rows = [flawed(0, flaw, sha256="a", picture_stored=True), flawed(1, flaw, sha256="b")]
    data = (root / "models/polka-dot/1/golden/1.png").read_bytes()
    asked: list[str] = []

    def fetch(sha256: str) -> bytes:
        asked.append(sha256)
        return data

    text = report_html(summarise(rows, DAY), fetch)
    assert asked == ["a"]
    assert len(Page(text).named("img")) == 1
    assert "picture not kept" in text
    kept = [flawed(0, flaw, sha256="a", picture_stored=True)]
    assert "picture not kept" in page_of(kept, b"not a picture")
    assert "picture not kept" in page_of(kept)


def test_the_inspections_of_a_cause_lead_to_their_pictures() -> None:
    flaw = Flaw((1, 1, 9, 9), 2.0, "hole", Severity.MAJOR, causes=("Oil",))
    flaw = replace(flaw, cited=(Citation("Oil", "case-7", f"{0:032x}"), Citation("Oil", "case-8", "long ago")))
    page = Page(page_of([flawed(at, flaw) for at in range(3)]))
    shown = [f"inspection-{at:032x}" for at in range(3)]
    assert [figure["id"] for figure in page.named("figure")] == shown
    assert [link["href"] for link in page.named("a")] == [f"#{place}" for place in (shown[0], shown[0], shown[1])]
    assert {"case-7", "case-8", "long ago"} <= {*page.words}


def test_the_page_follows_from_the_rows_alone() -> None:
    assert page_of(a_day()) == page_of(list(reversed(a_day())))


def test_signals_are_told_with_time_and_rule() -> None:
    text = page_of(a_day())
    assert "Western Electric 1" in text
    assert "2026-03-09 14:00 to 16:00" in text


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_shown_percentages_add_up_to_100(counts: list[int]) -> None:
    tenths = [round(float(percent) * 10) for percent in apportion(counts)]
    assert sum(tenths) == (1000 if sum(counts) else 0)
    total = sum(counts) or 1
    assert all(abs(value - 1000 * count / total) < 1 for value, count in zip(tenths, counts, strict=True))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30), max_size=14, unique=True))
def test_charts_are_well_formed_whatever_the_labels(labels: list[str]) -> None:
    data = summarise([flawed(at, Flaw((0, 0, 9, 9), 2.0, label)) for at, label in enumerate(labels)], DAY)
    for chart in (pareto_chart(data.flaw_types), control_chart(data.chart), trend_chart(data.chart)):
        assert ET.fromstring(chart).tag == f"{SVG}svg"


def test_the_pareto_chart_draws_each_type_and_the_rest_in_one_bar() -> None:
    few = summarise(a_day(), DAY).flaw_types
    assert len(ET.fromstring(pareto_chart(few)).findall(f"{SVG}rect")) == len(few)
    many = summarise([flawed(at, Flaw(None, None, f"type {at % 30}")) for at in range(90)], DAY).flaw_types
    drawn = ET.fromstring(pareto_chart(many))
    assert len(drawn.findall(f"{SVG}rect")) == 10
    assert drawn.findall(f"{SVG}rect/{SVG}title")[-1].text == "21 other types: 63 of 90 flaws (70.0%)"


def test_the_control_chart_marks_the_points_of_signals() -> None:
    chart = summarise(a_day(), DAY).chart
    drawn = ET.fromstring(control_chart(chart))
    dots = drawn.findall(f"{SVG}circle")
    assert len(dots) == len(chart.subgroups)
    alarms = {at for signal in chart.signals for at in range(signal.first, signal.last + 1)}
    assert {at for at, dot in enumerate(dots) if dot.get("class") == "f-alarm"} == alarms


def test_drawn_points_lie_in_the_plot() -> None:
    chart = summarise(a_day(), DAY).chart
    for text in (control_chart(chart), trend_chart(chart)):
        for dot in ET.fromstring(text).findall(f"{SVG}circle"):
            assert 56 <= float(dot.get("cx", "nan")) <= 676
            assert 16 <= float(dot.get("cy", "nan")) <= 240


@pytest.mark.parametrize("share", [0, 1])
def test_all_ok_and_all_not_ok_can_be_drawn(share: int) -> None:
    data = summarise([row(at, Decision.NOT_OK if share else Decision.OK) for at in range(300)], DAY)
    assert data.chart.signals == ()
    assert ET.fromstring(control_chart(data.chart)).findall(f"{SVG}circle")


def test_long_tables_are_cut_and_say_so() -> None:
    rows = [flawed(at, Flaw(None, None, f"type {at:02}", action=f"do {at:02}")) for at in range(20)]
    text = page_of(rows)
    assert "<td>do 14</td>" in text
    assert "<td>do 15</td>" not in text
    assert text.count("5 more are in the JSON.") == 2
